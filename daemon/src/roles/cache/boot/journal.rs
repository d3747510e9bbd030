//! What is known of boots: how far each workstation has come, from all that it asks for on its way.
//!
//! A boot that ended is a line of a file, so that those of yesterday are known tomorrow; losing one in a crash costs nothing else.

use std::collections::{BTreeMap, VecDeque};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use icbd_export::Mac;
use icbd_image::{ClientName, Timestamp, VersionId};

use crate::blocking;
use crate::clients::{BootEntry, Stage, StageEntry};
use crate::output;

const FILE: &str = "boots.jsonl";
/// Those that are under way, for the next daemon.
const OPEN: &str = "boots.open.json";
/// A boot of which nothing was heard for so long will not go on.
const SILENT_MAX: Duration = Duration::from_secs(15 * 60);
/// A script that is fetched twice within this is that of one boot.
const TWICE: Duration = Duration::from_secs(60);
/// So many are remembered, and shown; the file has them all.
const KNOWN_MAX: usize = 2000;
/// Of what one says so many lines are kept, and so much of each.
const SAID_MAX: usize = 20;
const LINE_CHARS_MAX: usize = 300;

#[derive(Debug)]
pub(in super::super) struct Journal {
    file: PathBuf,
    open: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    open: BTreeMap<IpAddr, Open>,
    /// In the order in which they ended.
    ended: VecDeque<BootEntry>,
}

#[derive(Debug)]
struct Open {
    entry: BootEntry,
    began: Instant,
    heard: Instant,
    /// When it asked for an address last: the kernel does so, too, and so does the next boot.
    addressed: Option<Instant>,
    fetched_before: u64,
    /// What was fetched for it while an earlier daemon ran.
    carried_bytes: u64,
}

/// What is known of a workstation besides its address.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Known {
    pub(in super::super) mac: Option<Mac>,
    pub(in super::super) client: Option<ClientName>,
    pub(in super::super) version: Option<VersionId>,
}

impl Journal {
    /// What is known of boots that are younger than `keep`; what is older is forgotten.
    pub(in super::super) fn open(folder: &Path, keep: Duration) -> Journal {
        let (file, open) = (folder.join(FILE), folder.join(OPEN));
        let (resumed, over) = resume(&open);
        let mut inner = Inner { open: resumed, ended: VecDeque::new() };
        match std::fs::read_to_string(&file) {
            Ok(text) => inner.ended = remember(&file, &text, keep),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(file = %file.display(), %error, "earlier boots are not known"),
        }
        let journal = Journal { file, open, inner: Mutex::new(inner) };
        if !over.is_empty() {
            let mut inner = journal.lock();
            over.into_iter().for_each(|boot| journal.end(&mut inner, boot));
            // Or the next daemon would end them once more.
            journal.keep_open(&inner);
        }
        journal
    }

    /// Somebody said something.
    pub(in super::super) fn hear(&self, from: IpAddr, line: &str) {
        // Somebody may be writing with the lock.
        let mut inner = blocking::in_place(|| self.lock());
        let Some(Open { entry, .. }) = inner.open.get_mut(&from) else { return };
        entry.said.push(line.chars().take(LINE_CHARS_MAX).collect());
        let over = entry.said.len().saturating_sub(SAID_MAX);
        entry.said.drain(..over);
    }

    /// Somebody has come so far. `fetched_bytes`: what came from sources since the start of the daemon.
    pub(in super::super) fn reach(&self, from: IpAddr, stage: Stage, known: Known, fetched_bytes: u64) {
        blocking::in_place(|| self.reach_now(from, stage, known, fetched_bytes));
    }

    fn reach_now(&self, from: IpAddr, stage: Stage, known: Known, fetched_bytes: u64) {
        let mut inner = self.lock();
        let now = Instant::now();
        if inner.open.get(&from).is_none_or(|open| open.is_over(stage, &known, now)) {
            if stage > Stage::Script {
                // Of a boot whose beginning nobody saw.
                return;
            }
            let mut open = Open::new(from, now, fetched_bytes);
            if let Some(before) = inner.open.remove(&from) {
                if let Some(addressed) = before.addressed.filter(|at| now.duration_since(*at) < TWICE) {
                    // That was this one's.
                    open.begin_with_address(addressed, now);
                }
                self.end(&mut inner, before);
            }
            inner.open.insert(from, open);
        }
        let Some(open) = inner.open.get_mut(&from) else { return };
        if stage == Stage::Disk && open.reached() < Some(Stage::Script) {
            // Logged in still, from the boot before.
            return;
        }
        if !open.reach(stage, known, now, fetched_bytes) {
            return;
        }
        if matches!(stage, Stage::Up | Stage::Failed)
            && let Some(done) = inner.open.remove(&from)
        {
            self.end(&mut inner, done);
        }
        self.keep_open(&inner);
    }

    /// Has the next daemon know of those that are under way, however this one ends.
    fn keep_open(&self, inner: &Inner) {
        let entries: Vec<&BootEntry> = inner.open.values().map(|open| &open.entry).collect();
        let unfinished = self.open.with_added_extension("new");
        let written =
            serde_json::to_vec(&entries).map_err(io::Error::from).and_then(|text| std::fs::write(&unfinished, text));
        if let Err(error) = written.and_then(|()| std::fs::rename(&unfinished, &self.open)) {
            tracing::debug!(file = %self.open.display(), %error, "boots under way would be forgotten by a restart");
        }
    }

    /// Gives up those of which nothing was heard for long.
    pub(in super::super) fn sweep(&self) {
        blocking::in_place(|| self.sweep_now());
    }

    fn sweep_now(&self) {
        let mut inner = self.lock();
        let silent = |open: &Open| open.heard.elapsed() > SILENT_MAX;
        let over: Vec<IpAddr> = inner.open.iter().filter(|(_, open)| silent(open)).map(|(at, _)| *at).collect();
        for at in over {
            if let Some(open) = inner.open.remove(&at) {
                self.end(&mut inner, open);
                self.keep_open(&inner);
            }
        }
    }

    /// All that are known, the newest first.
    pub(in super::super) fn all(&self) -> Vec<BootEntry> {
        let inner = blocking::in_place(|| self.lock());
        let mut all: Vec<BootEntry> = inner.open.values().map(|open| open.entry.clone()).collect();
        all.extend(inner.ended.iter().cloned());
        all.sort_by_key(|entry| std::cmp::Reverse((entry.began.seconds, entry.began.nanoseconds)));
        all
    }

    fn end(&self, inner: &mut Inner, open: Open) {
        let mut entry = BootEntry { ended: true, ..open.entry };
        if entry.stages.iter().any(|reached| reached.stage == Stage::Up) {
            entry.said.clear();
        }
        if let Err(error) = append(&self.file, &entry) {
            tracing::warn!(file = %self.file.display(), %error, "a boot could not be written down");
        }
        inner.ended.push_back(entry);
        if inner.ended.len() > KNOWN_MAX {
            inner.ended.pop_front();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn new(address: IpAddr, now: Instant, fetched_before: u64) -> Open {
        let entry = BootEntry {
            began: output::now(),
            address,
            mac: None,
            client: None,
            version: None,
            stages: Vec::new(),
            from_source_bytes: 0,
            ended: false,
            said: Vec::new(),
        };
        Open { entry, began: now, heard: now, addressed: None, fetched_before, carried_bytes: 0 }
    }

    /// One that began while an earlier daemon ran.
    fn resumed(entry: BootEntry) -> Open {
        let now = Instant::now();
        let began =
            SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(entry.began.seconds).unwrap_or_default());
        let ago = began.elapsed().unwrap_or_default();
        // The clock of this start of the machine may not reach back so far.
        let began = now.checked_sub(ago).or_else(|| now.checked_sub(SILENT_MAX)).unwrap_or(now);
        let carried_bytes = entry.from_source_bytes;
        Open { entry, began, heard: now, addressed: None, fetched_before: 0, carried_bytes }
    }

    fn reached(&self) -> Option<Stage> {
        self.entry.stages.iter().map(|entry| entry.stage).max()
    }

    /// Whether what is reached now belongs to another boot.
    fn is_over(&self, stage: Stage, known: &Known, now: Instant) -> bool {
        let Some(reached) = self.reached() else { return false };
        let is_silent = now.duration_since(self.heard) > SILENT_MAX;
        let is_other = known.mac.is_some() && self.entry.mac.is_some() && known.mac != self.entry.mac;
        is_silent
            || is_other
            || match stage {
                Stage::Address => false,
                Stage::Loader | Stage::Menu => reached >= Stage::Script,
                Stage::Script => {
                    let is_same = self.entry.version.is_none() || self.entry.version == known.version;
                    reached > Stage::Script
                        || reached == Stage::Script && !(is_same && now.duration_since(self.heard) < TWICE)
                }
                _ => false,
            }
    }

    fn begin_with_address(&mut self, addressed: Instant, now: Instant) {
        let ago = now.duration_since(addressed);
        self.began = addressed;
        self.entry.began = SystemTime::now().checked_sub(ago).map_or(self.entry.began, Timestamp::from);
        self.entry.stages.push(StageEntry { stage: Stage::Address, after_ms: 0 });
    }

    /// Whether it had not come so far.
    fn reach(&mut self, stage: Stage, known: Known, now: Instant, fetched_bytes: u64) -> bool {
        if stage == Stage::Address {
            self.addressed = Some(now);
        }
        let entry = &mut self.entry;
        entry.mac = entry.mac.or(known.mac);
        entry.client = entry.client.take().or(known.client);
        // Whoever boots one image may log in to a disk of another, too.
        entry.version = match stage {
            Stage::Script => known.version.or(entry.version.take()),
            _ => entry.version.take().or(known.version),
        };
        entry.from_source_bytes = self.carried_bytes + fetched_bytes.saturating_sub(self.fetched_before);
        let is_new = !entry.stages.iter().any(|entry| entry.stage == stage);
        if is_new {
            let after_ms = u64::try_from(now.duration_since(self.began).as_millis()).unwrap_or(u64::MAX);
            entry.stages.push(StageEntry { stage, after_ms });
            self.heard = now;
        }
        is_new
    }
}

/// Those that were under way when an earlier daemon ended, and those of them that will not go on.
fn resume(file: &Path) -> (BTreeMap<IpAddr, Open>, Vec<Open>) {
    let text = std::fs::read(file).unwrap_or_default();
    // A file that cannot be read is that of no daemon.
    let entries: Vec<BootEntry> = serde_json::from_slice(&text).unwrap_or_default();
    let (open, over): (Vec<Open>, Vec<Open>) = entries.into_iter().map(Open::resumed).partition(|open| {
        let last = open.entry.last().map_or(Duration::ZERO, |last| Duration::from_millis(last.after_ms));
        open.began.elapsed().saturating_sub(last) < SILENT_MAX
    });
    (open.into_iter().map(|open| (open.entry.address, open)).collect(), over)
}

fn append(file: &Path, entry: &BootEntry) -> io::Result<()> {
    let mut line = serde_json::to_vec(entry)?;
    line.push(b'\n');
    OpenOptions::new().append(true).create(true).mode(0o600).open(file)?.write_all(&line)
}

/// Boots of a file that are to be kept; the file has no others afterwards.
fn remember(file: &Path, text: &str, keep: Duration) -> VecDeque<BootEntry> {
    let oldest = SystemTime::now().checked_sub(keep).map(Timestamp::from);
    let is_young = |entry: &BootEntry| oldest.is_none_or(|oldest| entry.began.seconds >= oldest.seconds);
    // What a crash cut off is no line.
    let all = text.lines().filter_map(|line| serde_json::from_str::<BootEntry>(line).ok());
    let kept: Vec<BootEntry> = all.filter(is_young).collect();
    if kept.len() < text.lines().count() {
        let write = || {
            let lines: Result<Vec<String>, _> = kept.iter().map(serde_json::to_string).collect();
            let unfinished = file.with_added_extension("new");
            let mut text = lines?.join("\n");
            text.push_str(if kept.is_empty() { "" } else { "\n" });
            std::fs::write(&unfinished, text)?;
            std::fs::rename(&unfinished, file)
        };
        if let Err::<(), io::Error>(error) = write() {
            tracing::warn!(file = %file.display(), %error, "old boots could not be forgotten");
        }
    }
    let from = kept.len().saturating_sub(KNOWN_MAX);
    kept.into_iter().skip(from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 2, 7));

    fn known(version: Option<&str>) -> Known {
        let version = version.map(|version| version.parse().unwrap());
        Known { mac: "52:54:00:00:00:07".parse().ok(), client: "pc-7".parse().ok(), version }
    }

    fn stages(boot: &BootEntry) -> Vec<Stage> {
        boot.stages.iter().map(|entry| entry.stage).collect()
    }

    #[test]
    fn a_boot_is_all_that_a_workstation_asks_for_on_its_way() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path(), Duration::from_secs(3600));
        journal.reach(FROM, Stage::Root, known(None), 0);
        assert!(journal.all().is_empty(), "of a boot whose beginning nobody saw");
        let lab = known(Some("lab@3"));
        // The kernel asks for an address once more, and a script may be fetched twice.
        for stage in
            [Stage::Address, Stage::Loader, Stage::Address, Stage::Menu, Stage::Script, Stage::Script, Stage::Address]
        {
            journal.reach(FROM, stage, if stage == Stage::Script { lab.clone() } else { known(None) }, 100);
        }
        // A disk beside the one that it boots from.
        journal.reach(FROM, Stage::Disk, known(Some("space@1")), 100);
        for (stage, bytes) in [(Stage::Kernel, 150), (Stage::Root, 180), (Stage::Up, 200)] {
            journal.reach(FROM, stage, Known::default(), bytes);
        }
        let all = journal.all();
        assert_eq!(all.len(), 1, "{all:?}");
        let (begins, goes_on) = (
            [Stage::Address, Stage::Loader, Stage::Menu, Stage::Script],
            [Stage::Disk, Stage::Kernel, Stage::Root, Stage::Up],
        );
        let whole = [begins, goes_on].concat();
        assert_eq!(stages(&all[0]), whole);
        assert_eq!(
            (all[0].version.as_ref().map(ToString::to_string).as_deref(), all[0].from_source_bytes),
            (Some("lab@3"), 100)
        );
        assert!(all[0].ended);
        // It is switched off on its way, and on again.
        journal.reach(FROM, Stage::Menu, known(None), 200);
        journal.reach(FROM, Stage::Script, lab.clone(), 200);
        journal.reach(FROM, Stage::Address, known(None), 200);
        journal.reach(FROM, Stage::Menu, known(None), 200);
        let all = journal.all();
        let of_last = all.iter().find(|boot| !boot.ended).map(stages);
        assert_eq!(of_last, Some(vec![Stage::Address, Stage::Menu]), "what it asked for just before is its own");
        assert_eq!((all.len(), all.iter().filter(|boot| boot.ended).count()), (3, 2));
        // Another daemon goes on with what is under way.
        journal.hear(FROM, "kernel: no driver");
        journal.reach(FROM, Stage::Script, lab.clone(), 300);
        let again = Journal::open(folder.path(), Duration::from_secs(3600));
        again.reach(FROM, Stage::Kernel, Known::default(), 50);
        let last = again.all().into_iter().find(|boot| !boot.ended).unwrap();
        assert_eq!(stages(&last), [Stage::Address, Stage::Menu, Stage::Script, Stage::Kernel]);
        assert_eq!((last.from_source_bytes, last.said), (150, vec!["kernel: no driver".to_owned()]));
        again.reach(FROM, Stage::Up, Known::default(), 60);
        let last = again.all().remove(0);
        assert!(last.ended && last.said.is_empty(), "what one that is up said is of no use: {last:?}");
        assert_eq!(again.all().len(), 3, "those that ended are kept");
        let file = folder.path().join(FILE);
        let mut old = again.all().remove(0);
        old.began = Timestamp { seconds: 0, nanoseconds: 0 };
        let old = serde_json::to_string(&old).unwrap();
        std::fs::write(&file, format!("{old}\n{{cut")).unwrap();
        assert_eq!(Journal::open(folder.path(), Duration::from_secs(3600)).all().len(), 0);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "");
    }
}
