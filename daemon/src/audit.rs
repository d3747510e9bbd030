//! The audit log: one JSON line for each change, with who asked for it, appended and never rewritten.
//!
//! It lies beside what it speaks of: in the repository, the store or the folder of trusted keys.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::blocking;
use crate::control::Peer;
use crate::output;

/// The audit log's name in its folder.
const FILE_NAME: &str = "audit.jsonl";

/// So many changes are shown; the file has them all.
pub(crate) const SHOWN_MAX: usize = 10_000;

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub time: String,
    pub user: String,
    pub uid: u32,
    pub pid: i32,
    /// The verb and what it was done to: `image publish debian-lab`.
    pub what: String,
    /// What the one who asked for it says about it; mostly nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// `done`, or why not; `begun` where only a later line tells.
    pub result: String,
}

/// What is changed, and what the one who asked for it says about it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change<'a> {
    pub what: &'a str,
    pub why: &'a str,
}

impl<'a> From<&'a str> for Change<'a> {
    fn from(what: &'a str) -> Change<'a> {
        Change { what, why: "" }
    }
}

impl<'a> From<&'a String> for Change<'a> {
    fn from(what: &'a String) -> Change<'a> {
        Change { what, why: "" }
    }
}

impl Entry {
    fn new(peer: &Peer, Change { what, why }: Change<'_>, result: String) -> Entry {
        Entry {
            time: output::time(output::now()),
            user: peer.user.clone(),
            uid: peer.uid,
            pid: peer.pid,
            what: what.to_owned(),
            why: why.to_owned(),
            result,
        }
    }
}

#[derive(Debug)]
struct Tail {
    file: File,
    /// A line that did not fit may have left its beginning there.
    is_cut: bool,
}

impl Tail {
    fn of(file: File) -> std::io::Result<Tail> {
        let end = file.metadata()?.len();
        let mut last = [b'\n'];
        if end > 0 {
            file.read_exact_at(&mut last, end - 1)?;
        }
        Ok(Tail { file, is_cut: last != [b'\n'] })
    }
}

/// An open audit log.
#[derive(Debug)]
pub(crate) struct Audit {
    path: PathBuf,
    file: Mutex<Tail>,
}

impl Audit {
    /// Opens the log in `folder`, which exists.
    pub(crate) fn open(folder: &Path) -> anyhow::Result<Audit> {
        let path = folder.join(FILE_NAME);
        let opened = OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(&path);
        let tail =
            opened.and_then(Tail::of).with_context(|| format!("cannot open the audit log {}", path.display()))?;
        Ok(Audit { path, file: Mutex::new(tail) })
    }

    /// Appends that `peer` begins a change: what a crash cuts short has a name, too. Nothing is changed without it.
    pub(crate) fn begin<'a>(&self, peer: &Peer, change: impl Into<Change<'a>>) -> anyhow::Result<()> {
        let begun = self.append(&Entry::new(peer, change.into(), "begun".to_owned()));
        begun.with_context(|| format!("nothing was changed: cannot write the audit log {}", self.path.display()))
    }

    /// Appends one change. A log that cannot be written is said loudly; the change has happened already.
    pub(crate) fn record<'a, T>(&self, peer: &Peer, change: impl Into<Change<'a>>, result: &anyhow::Result<T>) {
        let change = change.into();
        let result = result.as_ref().map_or_else(|error| format!("{error:#}"), |_| "done".to_owned());
        tracing::info!(user = %peer.user, pid = peer.pid, what = change.what, result, "change");
        if let Err(error) = self.append(&Entry::new(peer, change, result)) {
            tracing::error!(path = %self.path.display(), %error, "cannot write the audit log");
        }
    }

    /// Makes a change with both ends of it recorded.
    pub(crate) async fn both_ends<T>(
        &self,
        peer: &Peer,
        change: Change<'_>,
        make: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        self.begin(peer, change)?;
        let made = make.await;
        self.record(peer, change, &made);
        made
    }

    /// The same of a change that makes room: where there is none for this line, the one of its end tells.
    pub(crate) fn begin_to_make_room(&self, peer: &Peer, change: Change<'_>) -> anyhow::Result<()> {
        match self.begin(peer, change) {
            Err(error) if is_full(&error) => {
                tracing::warn!(user = %peer.user, what = change.what, "begun; the disk is too full for the audit log");
                Ok(())
            }
            begun => begun,
        }
    }

    fn append(&self, entry: &Entry) -> anyhow::Result<()> {
        let mut line = serde_json::to_string(entry)?;
        blocking::in_place(|| {
            let mut tail = self.file.lock().expect("nobody panics with this lock");
            if tail.is_cut {
                line.insert(0, '\n');
            }
            line.push('\n');
            // One write: lines of two processes do not mix.
            let written = tail.file.write_all(line.as_bytes());
            tail.is_cut = written.is_err();
            written?;
            tail.file.sync_data()?;
            Ok(())
        })
    }

    /// The last changes, oldest first, at most `entries_max`.
    pub(crate) fn last(&self, entries_max: usize) -> anyhow::Result<Vec<Entry>> {
        let read = std::fs::read(&self.path);
        let read = read.with_context(|| format!("cannot read the audit log {}", self.path.display()))?;
        let text = String::from_utf8_lossy(&read);
        let mut entries: Vec<Entry> =
            text.lines().rev().take(entries_max).filter_map(|line| serde_json::from_str(line).ok()).collect();
        entries.reverse();
        Ok(entries)
    }
}

fn is_full(error: &anyhow::Error) -> bool {
    let full = |error: &std::io::Error| matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
    error.downcast_ref::<std::io::Error>().is_some_and(full)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_kept_in_order_with_their_author() {
        let dir = tempfile::tempdir().unwrap();
        let peer = Peer { uid: 0, user: "root".into(), pid: 7 };
        let audit = Audit::open(dir.path()).unwrap();
        audit.record(&peer, "image publish a", &Ok(()));
        audit.record(&peer, "image deploy a@9", &Err::<(), _>(anyhow::anyhow!("no such version")));
        drop(audit);
        let audit = Audit::open(dir.path()).unwrap();
        audit.record(&peer, "image deploy a@1", &Ok(()));
        let whats: Vec<_> = audit.last(2).unwrap().into_iter().map(|e| (e.what, e.result, e.user)).collect();
        // A line that a full disk or a kill cut short takes no other one with it.
        std::fs::OpenOptions::new().append(true).open(&audit.path).unwrap().write_all(b"{\"time\":\"\xc3").unwrap();
        drop(audit);
        let audit = Audit::open(dir.path()).unwrap();
        audit.record(&peer, "image deploy a@2", &Ok(()));
        assert_eq!(audit.last(1).unwrap()[0].what, "image deploy a@2");
        let line = |what: &str, result: &str| (what.to_owned(), result.to_owned(), "root".to_owned());
        assert_eq!(whats, [line("image deploy a@9", "no such version"), line("image deploy a@1", "done")]);
    }
}
