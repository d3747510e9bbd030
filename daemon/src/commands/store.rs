//! `icbd store`.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use http::Method;
use icbd_snapshot::{Finding, Kind, Probe, Reflinks, SnapshotError, Subvolumes, Transfers};
use serde::Serialize;

use super::{block_on, follow, interrupted};
use crate::args::StoreCommand;
use crate::control::Client;
use crate::evictions::{EvictReport, EvictSpec};
use crate::failure::{Exit, Failure};
use crate::output::{bytes, counted, table};
use crate::scrubs::{ScrubResult, ScrubSpec};
use crate::settings::{Role, Settings};

/// What a directory's file system can do, as `--json` prints it.
#[derive(Debug, Serialize)]
struct ProbeReport {
    path: PathBuf,
    file_system: String,
    mounted_at: PathBuf,
    mount_options: String,
    size_bytes: u64,
    free_bytes: u64,
    write_bytes_per_second: u64,
    reflink: Trial,
    subvolume: Trial,
    stream: Trial,
    /// What versions would be kept as.
    versions: &'static str,
}

/// One thing that was tried.
#[derive(Debug, Default, Serialize)]
struct Trial {
    verdict: &'static str,
    /// What was seen, or why it is not to be had.
    what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cloned_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shared_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
}

pub(crate) fn run(settings: &Settings, command: StoreCommand) -> Result<()> {
    match command {
        StoreCommand::Probe { path } => try_out(settings, path),
        StoreCommand::Scrub { limit, from } => {
            let bytes_per_second = limit.and_then(|rate| NonZeroU64::new(rate.bytes_per_second()));
            block_on(scrub(settings, ScrubSpec { bytes_per_second, from }))
        }
        StoreCommand::Evict { versions, yes, message } => {
            let spec = EvictSpec { versions, yes, why: message };
            block_on(evict(settings, spec))
        }
    }
}

async fn evict(settings: &Settings, spec: EvictSpec) -> Result<()> {
    let mut client = Client::connect(&settings.sockets(Role::Cache)).await?;
    let report: EvictReport = client.call(Method::POST, "/v1/evict", &spec).await?;
    settings.talk().result(&report, EvictReport::words)
}

async fn scrub(settings: &Settings, spec: ScrubSpec) -> Result<()> {
    let mut client = Client::connect(&settings.sockets(Role::Cache)).await?;
    let result: Option<ScrubResult> = follow(&mut client, "/v1/scrub", &spec, settings.talk()).await?;
    let result = result.ok_or_else(|| interrupted("not everything was read"))?;
    settings.talk().result(&result, ScrubResult::words)?;
    match result.fault_count - result.mended {
        0 => Ok(()),
        count => {
            let message = format!(
                "{} left; a master is mended from a cache server or a master that holds the same (`icbd store scrub --from \
                 URL`), and a cache server fetches what it lacks when it is read, or its source is back",
                counted(count, "fault")
            );
            Err(Failure::new(Exit::Verification, message).into())
        }
    }
}

fn try_out(settings: &Settings, path: Option<PathBuf>) -> Result<()> {
    let path = match path {
        Some(path) => path,
        None => settings.store()?,
    };
    let probe = probe(&path)?;
    let report = report(&probe);
    settings.talk().result(&report, |report| show(report, &probe))?;
    match probe.faults().next() {
        None => Ok(()),
        Some(fault) => {
            let shown = probe.path.display();
            let message = format!(
                "the file system of {shown} does not do what it says: {fault}; keep no versions on it, and update this \
                 machine's kernel before you trust it with any data"
            );
            Err(Failure::new(Exit::Verification, message).into())
        }
    }
}

fn probe(path: &Path) -> Result<Probe> {
    let shown = path.display();
    let found = path.metadata().map_err(|error| {
        let message = format!("cannot look at {shown}: {error}; name a directory on the file system to be tried");
        Failure::new(Exit::Absent, message)
    })?;
    if !found.is_dir() {
        return Err(Failure::new(Exit::Usage, format!("{shown} is no directory; name the one it lies in")).into());
    }
    Ok(Probe::run(path).map_err(Failure::from)?)
}

fn report(probe: &Probe) -> ProbeReport {
    ProbeReport {
        path: probe.path.clone(),
        file_system: probe.file_system.clone(),
        mounted_at: probe.mounted_at.clone(),
        mount_options: probe.mount_options.clone(),
        size_bytes: probe.size_bytes,
        free_bytes: probe.free_bytes,
        write_bytes_per_second: probe.write_bytes_per_second,
        reflink: Trial::of(&probe.reflinks, Trial::reflinks),
        subvolume: Trial::of(&probe.subvolumes, Trial::subvolumes),
        stream: Trial::of(&probe.transfers, Trial::transfers),
        versions: match probe.best() {
            Kind::Btrfs => "subvolumes",
            Kind::Reflink => "reflinks",
            Kind::Plain => "copies",
        },
    }
}

impl Trial {
    fn of<T>(finding: &Finding<T>, works: impl FnOnce(&T) -> Trial) -> Trial {
        match finding {
            Finding::Works(found) => Trial { verdict: "works", ..works(found) },
            Finding::Refused(why) => Trial { verdict: "no", what: why.clone(), ..Trial::default() },
            Finding::Wrong(what) => Trial { verdict: "WRONG", what: what.clone(), ..Trial::default() },
        }
    }

    fn reflinks(found: &Reflinks) -> Trial {
        let clone = format!("a clone of {} was made in {}", bytes(found.cloned_bytes), duration(found.took));
        let what = match found.shared_bytes {
            Some(shared) => format!("{clone} and shares {} on the disk", bytes(shared)),
            None => format!("{clone}; this file system does not tell whether it shares them"),
        };
        let (cloned_bytes, seconds) = (Some(found.cloned_bytes), Some(found.took.as_secs_f64()));
        Trial { what, cloned_bytes, shared_bytes: found.shared_bytes, seconds, ..Trial::default() }
    }

    fn subvolumes(found: &Subvolumes) -> Trial {
        let what = format!(
            "a snapshot was made in {} and deleted in {}; the kernel lets nobody write to it",
            duration(found.snapshot_took),
            duration(found.delete_took)
        );
        Trial { what, seconds: Some(found.snapshot_took.as_secs_f64()), ..Trial::default() }
    }

    fn transfers(found: &Transfers) -> Trial {
        let what = format!("a snapshot was sent and received in {}", duration(found.took));
        Trial { what, seconds: Some(found.took.as_secs_f64()), ..Trial::default() }
    }
}

fn show(report: &ProbeReport, probe: &Probe) -> String {
    let free = format!("{} of {} free", bytes(report.free_bytes), bytes(report.size_bytes));
    let head = format!(
        "{}: {} at {} ({}), {free}",
        report.path.display(),
        report.file_system,
        report.mounted_at.display(),
        report.mount_options
    );
    let row = |name: &str, trial: &Trial| vec![name.to_owned(), trial.verdict.to_owned(), trial.what.clone()];
    let rows = [row("reflink", &report.reflink), row("subvolume", &report.subvolume), row("stream", &report.stream)];
    let tried = table(&["TRIED", "VERDICT", "WHAT WAS SEEN"], rows);
    format!("{head}\n{tried}\n{}", verdict(probe).join("\n"))
}

/// What it gives and what it costs, in plain words.
fn verdict(probe: &Probe) -> Vec<String> {
    if probe.faults().next().is_some() {
        return vec!["Keep no versions here.".into()];
    }
    let mut lines: Vec<&str> = match probe.best() {
        Kind::Btrfs => vec![
            "Versions are subvolumes here: a new one takes the room of what it changed, is begun, saved and sealed at",
            "once whatever its size, and is read-only once it is sealed: whoever alters it does so on purpose, and a scrub",
            "finds it.",
        ],
        Kind::Reflink => vec![
            "Versions are directories of reflinked files here: a new one takes the room of what it changed. To begin, save",
            "or seal one takes longer the more files it has, however large they are. Nothing but rights keeps a sealed",
            "one from being altered, and only a scrub finds it.",
        ],
        Kind::Plain => vec![
            "Versions are plain copies here: a new one takes the room of all of it, and is copied whole to be begun, to be",
            "saved and to be sealed.",
        ],
    };
    lines.push(match (probe.best(), &probe.transfers) {
        (Kind::Btrfs, Finding::Works(_)) => "They travel as btrfs streams or by blocks.",
        (Kind::Btrfs, _) => {
            "They travel by blocks only until `btrfs` can be run here: install the package btrfs-progs."
        }
        _ => "They travel by blocks; streams need btrfs.",
    });
    let mut lines: Vec<String> = lines.into_iter().map(str::to_owned).collect();
    if probe.best() == Kind::Plain {
        // One copy is read and written on the same disk: this is the least that it takes.
        let seconds = EXAMPLE_BYTES / probe.write_bytes_per_second.max(1);
        let rate = bytes(probe.write_bytes_per_second);
        lines.push(format!(
            "At the {rate}/s that this disk wrote just now, {} take at least {seconds} s each time.",
            bytes(EXAMPLE_BYTES)
        ));
        lines.push("For versions that cost only what they changed, use btrfs, or xfs with reflink=1.".into());
    } else if probe.best() == Kind::Reflink && probe.file_system == "btrfs" {
        lines.push(
            "This is btrfs: with the rights to make and delete subvolumes it would give more; run icbd as root.".into(),
        );
    }
    lines
}

/// An image as they come.
const EXAMPLE_BYTES: u64 = 20 << 30;

/// `0.21 ms`, `41 ms`, `1.3 s`.
fn duration(took: Duration) -> String {
    match took.as_micros() {
        micros @ 0..1000 => format!("{micros} µs"),
        micros @ 1000..1_000_000 => format!("{} ms", micros / 1000),
        _ => format!("{:.1} s", took.as_secs_f64()),
    }
}

impl From<SnapshotError> for Failure {
    fn from(error: SnapshotError) -> Failure {
        let exit = match error {
            SnapshotError::Absent(_) => Exit::Absent,
            SnapshotError::Place { .. } => Exit::Usage,
            SnapshotError::Occupied(_)
            | SnapshotError::NotATree { .. }
            | SnapshotError::NotSealed(_)
            | SnapshotError::NotWritable(_)
            | SnapshotError::Replaced(_)
            | SnapshotError::Kept(_)
            | SnapshotError::Nested { .. }
            | SnapshotError::Mounted(_)
            | SnapshotError::Changed(_)
            | SnapshotError::Full { .. }
            | SnapshotError::ReadOnlyFileSystem { .. }
            | SnapshotError::Rights { .. } => Exit::Refused,
            SnapshotError::Attribute { .. }
            | SnapshotError::Unsupported { .. }
            | SnapshotError::NoProgram(_)
            | SnapshotError::Program { .. }
            | SnapshotError::Stream { .. }
            | SnapshotError::Io { .. } => Exit::Failed,
        };
        Failure::new(exit, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(reflinks: Finding<Reflinks>, subvolumes: Finding<Subvolumes>) -> Probe {
        Probe {
            path: "/srv".into(),
            file_system: "btrfs".into(),
            mounted_at: "/".into(),
            mount_options: "rw".into(),
            size_bytes: 1 << 40,
            free_bytes: 1 << 39,
            write_bytes_per_second: 200 << 20,
            reflinks,
            subvolumes,
            transfers: Finding::Refused("`btrfs` is not installed".into()),
        }
    }

    #[test]
    fn words_are_of_what_was_found() {
        let took = Duration::from_micros(210);
        let clone = Finding::Works(Reflinks { cloned_bytes: 8 << 20, shared_bytes: Some(8 << 20), took });
        let snapshot = Finding::Works(Subvolumes { snapshot_took: took * 100, delete_took: took });
        let says = |probe: Probe, words: &[&str]| {
            let text = show(&report(&probe), &probe);
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
        };
        let no = "not offered".to_owned();
        let parts =
            ["shares 8.0 MiB", "210 µs", "made in 21 ms", "at\nonce whatever", "install the package btrfs-progs"];
        says(probe(clone.clone(), snapshot), &parts);
        says(probe(clone, Finding::Refused(no.clone())), &["the more files it has", "by blocks", "run icbd as root"]);
        let copies = ["no       not offered", "20.0 GiB take at least 102 s", "use btrfs, or xfs"];
        says(probe(Finding::Refused(no.clone()), Finding::Refused(no.clone())), &copies);
        // The kernel of Annex III: it offered reflinks, and made files of zero bytes.
        let empty = Finding::Wrong("a reflink was made without an error and has other bytes".into());
        says(probe(empty, Finding::Refused(no)), &["WRONG    a reflink was made", "Keep no versions here."]);
    }
}
