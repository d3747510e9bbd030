//! Whether something is wrong, in one line: what `icbd check` makes of a daemon's report.
//!
//! The line and the codes are those of Nagios' plugins: 0 all is well, 1 worth a look, 2 somebody suffers or will,
//! 3 it cannot be told. <https://www.monitoring-plugins.org/doc/guidelines.html>

use std::path::Path;

use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::output::{bytes, counted, plain, seconds};
use crate::report::{CacheReport, DiskReport, MasterReport, Report};

/// How bad something is. Of several the greatest counts: what is known to be wrong is worse than what is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Level {
    Ok,
    Warning,
    Unknown,
    Critical,
}

/// What is to be known of the daemons of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    pub level: Level,
    pub problems: Vec<Problem>,
    /// How they are apart from that.
    pub summary: String,
    pub figures: Vec<Figure>,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Problem {
    pub level: Level,
    pub what: String,
}

/// A number for graphs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Figure {
    pub name: &'static str,
    pub value: u64,
    /// `B` for bytes, else nothing.
    pub unit: &'static str,
    pub max: Option<u64>,
}

/// A workstation whose disk stands still for so long is noticed by whoever sits there.
const WAIT_CRITICAL_SECONDS: u64 = 10;
/// A disk with less than this share of it free is full.
const DISK_FREE_SHARE: u64 = 50;
/// Of a very large one so much is room enough.
const DISK_FREE_BYTES_MAX: u64 = 20 << 30;
/// Problems in the line; the status has them all.
const PROBLEMS_SHOWN_MAX: usize = 4;
/// Characters of one: errors can be long, and who collects lines cuts them.
const PROBLEM_CHARS_MAX: usize = 200;

impl Level {
    /// The exit code.
    pub(crate) fn code(self) -> u8 {
        match self {
            Level::Ok => 0,
            Level::Warning => 1,
            Level::Critical => 2,
            Level::Unknown => 3,
        }
    }

    fn as_text(self) -> &'static str {
        match self {
            Level::Ok => "OK",
            Level::Warning => "WARNING",
            Level::Critical => "CRITICAL",
            Level::Unknown => "UNKNOWN",
        }
    }
}

impl Check {
    pub(crate) fn of(report: &Report) -> Check {
        match report {
            Report::Master(master) => of_master(master),
            Report::Cache(cache) => of_cache(cache),
        }
    }

    /// Nothing was found out. A daemon that does not answer is down; all else says nothing of it.
    pub(crate) fn failed(failure: &Failure) -> Check {
        let level = if failure.exit == Exit::Unreachable { Level::Critical } else { Level::Unknown };
        let lines: Vec<&str> = failure.message.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let problems = vec![Problem { level, what: lines.join(" ") }];
        Check { level, problems, summary: String::new(), figures: Vec::new() }
    }

    /// The same of several daemons.
    pub(crate) fn and(mut self, other: Check) -> Check {
        self.level = self.level.max(other.level);
        self.problems.extend(other.problems);
        self.problems.sort_by_key(|problem| std::cmp::Reverse(problem.level));
        self.summary = [self.summary, other.summary].join("; ");
        self.figures.extend(other.figures);
        self
    }

    fn new(mut problems: Vec<Problem>, summary: String, figures: Vec<Figure>) -> Check {
        problems.sort_by_key(|problem| std::cmp::Reverse(problem.level));
        Check { level: problems.first().map_or(Level::Ok, |worst| worst.level), problems, summary, figures }
    }

    /// One line: what is wrong, the worst first, or how it is; then figures.
    pub(crate) fn line(&self) -> String {
        let mut said: Vec<String> =
            self.problems.iter().take(PROBLEMS_SHOWN_MAX).map(|problem| clip(&problem.what)).collect();
        match self.problems.len() {
            0 => said.push(clip(&self.summary)),
            many if many > PROBLEMS_SHOWN_MAX => said.push(format!("and {} more", many - PROBLEMS_SHOWN_MAX)),
            _ => {}
        }
        let mut line = format!("ICBD {}: {}", self.level.as_text(), said.join("; "));
        for (at, Figure { name, value, unit, max }) in self.figures.iter().enumerate() {
            let max = max.map_or(String::new(), |max| format!(";;;0;{max}"));
            line.push_str(&format!("{}{name}={value}{unit}{max}", if at == 0 { " | " } else { " " }));
        }
        line
    }
}

fn of_master(master: &MasterReport) -> Check {
    // The only warnings of a master are of versions that are damaged: no cache can fetch them.
    let mut problems: Vec<Problem> = master.warnings.iter().map(|warning| problem(Level::Critical, warning)).collect();
    problems.extend(master.disk.as_ref().and_then(|disk| of_disk(&master.path, disk)));
    for plan in master.plans.iter().filter(|plan| plan.failed.is_some()) {
        problems.push(problem(Level::Warning, &plan.words()));
    }
    let MasterReport { process, images, versions, sent, .. } = master;
    let summary = format!(
        "{} is a master of {} with {}, up {}",
        process.name,
        counted(*images, "image"),
        counted(*versions, "version"),
        seconds(process.uptime_seconds)
    );
    let figures = vec![
        figure("versions", *versions as u64),
        figure("damaged_versions", master.warnings.len() as u64),
        Figure { unit: "B", ..figure("sent_bytes", sent.bytes) },
    ];
    Check::new(problems, summary, figures)
}

/// A master that can publish nothing serves on.
fn of_disk(repository: &Path, disk: &DiskReport) -> Option<Problem> {
    let DiskReport { size_bytes, free_bytes, is_read_only, .. } = disk;
    let repository = repository.display();
    let what = if *is_read_only {
        format!("the repository {repository} is mounted read-only: nothing can be published, deployed or removed")
    } else if *free_bytes < (size_bytes / DISK_FREE_SHARE).min(DISK_FREE_BYTES_MAX) {
        let (free, size) = (bytes(*free_bytes), bytes(*size_bytes));
        format!(
            "the disk of the repository {repository} is full ({free} of {size} free): `icbd image prune` says what may go"
        )
    } else {
        return None;
    };
    Some(problem(Level::Warning, &what))
}

fn of_cache(cache: &CacheReport) -> Check {
    let mut problems = Vec::new();
    if !cache.mount.mounted {
        problems.push(problem(Level::Critical, &format!("{} is not mounted", cache.mount.path.display())));
    }
    let store = &cache.store;
    if store.state != "ok" {
        // What is full serves on without keeping; what is suspect may lose what it kept.
        let level = if store.state == "full" { Level::Warning } else { Level::Critical };
        let why = store.reason.as_deref().unwrap_or("unknown");
        problems.push(problem(level, &format!("the store {} is {}: {why}", store.path.display(), store.state)));
    }
    problems.extend(waiting(cache));
    problems.extend(cache.failed_lately.iter().map(|failed| problem(Level::Critical, failed)));
    for source in cache.sources.iter().filter(|source| source.online == Some(false)) {
        let why = source.error.as_deref().map_or(String::new(), |why| format!(": {why}"));
        let what = format!("source {} is offline for {}{why}", source.url, seconds(source.since_seconds));
        problems.push(problem(Level::Warning, &what));
    }
    if !cache.sources.is_empty() && cache.sources.iter().all(|source| source.online.is_none()) {
        problems.push(problem(Level::Warning, "no source has answered yet"));
    }
    problems.extend(cache.warnings.iter().map(|warning| problem(Level::Warning, warning)));
    let online = cache.sources.iter().filter(|source| source.online == Some(true)).count();
    let complete = cache.versions.iter().filter(|version| version.complete).count();
    let summary = format!(
        "{} is a cache with {complete} of {} versions complete, {online} of {} sources online, store {}/{}, up {}",
        cache.process.name,
        cache.versions.len(),
        cache.sources.len(),
        bytes(store.used_bytes),
        bytes(store.size_bytes),
        seconds(cache.process.uptime_seconds)
    );
    let offline = cache.sources.iter().filter(|source| source.online == Some(false)).count();
    let figures = vec![
        figure("waiting_reads", cache.waiting.len() as u64),
        Figure { max: Some(cache.sources.len() as u64), ..figure("offline_sources", offline as u64) },
        Figure { unit: "B", max: Some(store.size_bytes), ..figure("store_used", store.used_bytes) },
        Figure { unit: "B", ..figure("fetched_bytes", cache.fetched_bytes) },
    ];
    Check::new(problems, summary, figures)
}

/// Reads that wait are workstations that stand still.
fn waiting(cache: &CacheReport) -> Option<Problem> {
    let longest = cache.waiting.iter().max_by_key(|read| read.seconds)?;
    let level = if longest.seconds >= WAIT_CRITICAL_SECONDS { Level::Critical } else { Level::Warning };
    let why = longest.reason.as_deref().map_or(String::new(), |why| format!(" ({why})"));
    let count = cache.waiting.len();
    let reads = if count == 1 { "1 read waits".to_owned() } else { format!("{count} reads wait") };
    let (version, file) = (&longest.version, &longest.file);
    let block = longest.block.map_or(String::new(), |block| format!(" block {block}"));
    let since = seconds(longest.seconds);
    Some(problem(level, &format!("{reads}, since {since} for {version} {file}{block}{why}")))
}

fn problem(level: Level, what: &str) -> Problem {
    Problem { level, what: what.to_owned() }
}

fn figure(name: &'static str, value: u64) -> Figure {
    Figure { name, value, unit: "", max: None }
}

/// Text from outside as part of the line: what would end it or begin the figures is not in it.
fn clip(text: &str) -> String {
    let text = plain(text).replace('|', "/");
    match text.char_indices().nth(PROBLEM_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests;
