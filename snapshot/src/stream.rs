//! Trees on their way to another store: as a stream, whole or as the difference from a tree that both stores have.
//!
//! Streams pass through a pipe between a program and the caller; nothing here holds more than the pipe does. What is
//! received is in nobody's sight until the program that receives it says that it is whole, and is gone again if it
//! is not, or if nobody waits for it any more.
//!
//! A stream is obeyed, not checked: one that somebody else made up can do harm. Receive only from whom you would
//! let write to this store, and verify the tree before anybody uses it.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use crate::beneath::names;
use crate::child::Child;
use crate::flusher::Flusher;
use crate::slot::Slot;
use crate::staging::Staging;
use crate::tree::Open;
use crate::{Access, Sealed, SnapshotError, Tree, Trees};

/// The programs that send and receive trees of one kind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Programs {
    pub(crate) name: &'static str,
    /// Writes a tree, or its difference from a parent, to standard output.
    pub(crate) send: fn(&Path, Option<&Path>, Encoding) -> Command,
    /// Makes a tree of standard input in a directory, under the name that it was sent from.
    pub(crate) receive: fn(&Path) -> Command,
    /// Whether a directory is a tree that was received to its end.
    pub(crate) was_received: fn(BorrowedFd<'_>) -> rustix::io::Result<bool>,
    /// The name of a tree that those who were received from it share.
    pub(crate) lineage: fn(BorrowedFd<'_>) -> rustix::io::Result<[u8; 16]>,
}

/// How a stream says what is in a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Everybody who receives streams understands it; holes that were data in the parent travel as zeros.
    Protocol1,
    /// Linux 6.0 and btrfs-progs 6.0, on both ends.
    Protocol2,
    /// Protocol 2 with the data as packed as it lies on the disk.
    AsStored,
}

/// A store's streams.
#[derive(Debug, Clone, Copy)]
pub struct Streams<'a> {
    trees: &'a Trees,
    programs: Programs,
}

impl<'a> Streams<'a> {
    pub(crate) fn new(trees: &'a Trees, programs: Programs) -> Streams<'a> {
        Streams { trees, programs }
    }

    /// Sends a tree: all of it, or what differs from `parent`, which the other store must have received or sent.
    pub fn send(&self, tree: &Sealed, parent: Option<&Sealed>, encoding: Encoding) -> Result<Sending, SnapshotError> {
        let mut command = (self.programs.send)(tree.path(), parent.map(Tree::path), encoding);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = Child::start(self.programs.name, &mut command, tree.path())?;
        let from = child.take_stdout();
        Ok(Sending { from, child, failed: false })
    }

    /// What a tree and all that were received from it have in common, in every store. A difference from a tree can be received
    /// where a tree of the same lineage is.
    pub fn lineage(&self, tree: &Sealed) -> Result<[u8; 16], SnapshotError> {
        (self.programs.lineage)(tree.directory()).map_err(SnapshotError::io("look at", tree.path()))
    }

    /// Receives a tree that is to be at `at`.
    pub fn receive(&self, at: &Path) -> Result<Receiving<'a>, SnapshotError> {
        // Found out before a long transfer rather than after it.
        drop(Slot::vacant(&self.trees.base, at)?);
        let staging = Staging::create(&self.trees.base)?;
        let mut command = (self.programs.receive)(staging.path());
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = Child::start(self.programs.name, &mut command, staging.path())?;
        let to = child.take_stdin();
        let directory = rustix::io::fcntl_dupfd_cloexec(staging.directory(), 0);
        let flusher = Flusher::new(directory.map_err(SnapshotError::io("open", staging.path()))?);
        Ok(Receiving { to, child, flusher, staging, streams: *self, at: Slot::vacant(&self.trees.base, at)? })
    }
}

/// A stream that is being made, to be read to its end: an end without an error is the end of all of it.
///
/// Dropped earlier, it ends the program that makes it.
#[derive(Debug)]
pub struct Sending {
    from: Option<ChildStdout>,
    child: Child,
    failed: bool,
}

impl Read for Sending {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(from) = &mut self.from else {
            return if self.failed { Err(io::Error::other("the stream was not made to its end")) } else { Ok(0) };
        };
        let read = from.read(buffer)?;
        if read == 0 && !buffer.is_empty() {
            self.from = None;
            self.failed = true;
            self.child.finish().map_err(io::Error::other)?;
            self.failed = false;
        }
        Ok(read)
    }
}

/// A tree that is being received, to be written to and finished.
///
/// Dropped earlier, it ends the program that receives it and removes what came so far.
#[derive(Debug)]
pub struct Receiving<'a> {
    to: Option<ChildStdin>,
    // Before the directory that it works in: it ends first.
    child: Child,
    flusher: Flusher,
    staging: Staging,
    streams: Streams<'a>,
    at: Slot<'a>,
}

impl Write for Receiving<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.as_mut().ok_or(io::ErrorKind::BrokenPipe)?.write(bytes);
        match written {
            // It ended before the stream did, and knows why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.to = None;
                self.child.finish().map_err(io::Error::other)?;
                Err(error)
            }
            written => {
                self.flusher.written(*written.as_ref().unwrap_or(&0));
                written
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A tree that came to its end. It is durable, and nobody has verified it yet.
#[derive(Debug)]
pub struct Received {
    pub tree: Sealed,
    /// The same as it came, before it was sealed: the kernel still holds in memory what was just written to it.
    pub came: Came,
}

/// What a tree was received as; gone when it is dropped.
#[derive(Debug)]
pub struct Came {
    tree: Sealed,
    /// After the tree in it.
    _staging: Staging,
}

impl Came {
    /// Its top directory.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.tree.directory()
    }
}

impl Receiving<'_> {
    /// Ends the stream; the tree, if all of it came.
    pub fn finish(mut self) -> Result<Received, SnapshotError> {
        self.to = None;
        self.child.finish()?;
        let path = self.at.path();
        let error = || SnapshotError::io("look at what was received for", &path);
        let broken = |what| SnapshotError::Stream { path: path.clone(), what };
        let names = names(self.staging.directory()).map_err(error())?;
        let [name] = &names[..] else { return Err(broken("it holds more than one tree, or none")) };
        let directory = self.staging.open(OsStr::from_bytes(name)).map_err(error())?;
        if !(self.streams.programs.was_received)(directory.as_fd()).map_err(error())? {
            return Err(broken("what came is no tree that was sent to its end"));
        }
        let received = Sealed::new(Open::new(self.staging.path().join(OsStr::from_bytes(name)), "".into(), directory));
        // Not by a rename, which the kernel refuses for what is read-only.
        self.streams.trees.backend.copy(&received, &self.at, Access::Sealed)?;
        let tree = self.streams.trees.sealed(self.at.at())?;
        Ok(Received { tree, came: Came { tree: received, _staging: self.staging } })
    }
}
