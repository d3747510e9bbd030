//! A program that runs for us. It never outlives its [`Child`], and what it says is kept for the error, should it fail.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use rustix::fs::MemfdFlags;

use crate::SnapshotError;

/// So much of what a failing program says is repeated; the beginning tells the cause.
const SAID_BYTES_MAX: usize = 2000;

#[derive(Debug)]
pub(crate) struct Child {
    program: &'static str,
    /// What it works on, for messages.
    path: PathBuf,
    child: process::Child,
    /// Its standard error: a file in memory, so that no thread has to read along.
    said: File,
}

impl Child {
    /// Starts `command`, which is `program`, with standard input and output as they were set.
    pub(crate) fn start(program: &'static str, command: &mut Command, path: &Path) -> Result<Child, SnapshotError> {
        let error = || SnapshotError::io("start a program for", path);
        let said = rustix::fs::memfd_create("said", MemfdFlags::CLOEXEC).map(File::from);
        let said = said.map_err(std::io::Error::from).map_err(error())?;
        let stderr = said.try_clone().map_err(error())?;
        let spawned = command.env("LC_ALL", "C").stderr(stderr).spawn();
        let child = spawned.map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => SnapshotError::NoProgram(program),
            _ => error()(source),
        })?;
        Ok(Child { program, path: path.to_owned(), child, said })
    }

    pub(crate) fn take_stdin(&mut self) -> Option<process::ChildStdin> {
        self.child.stdin.take()
    }

    pub(crate) fn take_stdout(&mut self) -> Option<process::ChildStdout> {
        self.child.stdout.take()
    }

    /// Waits until it ends; an error unless it succeeded.
    pub(crate) fn finish(&mut self) -> Result<(), SnapshotError> {
        let status = self.child.wait().map_err(SnapshotError::io("wait for a program for", &self.path))?;
        if status.success() {
            return Ok(());
        }
        let (said, path) = (self.said(), self.path.clone());
        // Programs say it in these words, whatever they were doing.
        if said.contains("No space left on device") {
            return Err(SnapshotError::Full { doing: "run a program for", path });
        }
        Err(SnapshotError::Program { program: self.program, path, status: status.to_string(), said })
    }

    /// What it said, in one line.
    fn said(&self) -> String {
        let mut said = vec![0; SAID_BYTES_MAX];
        let len = self.said.read_at(&mut said, 0).unwrap_or(0);
        let said = String::from_utf8_lossy(&said[..len]);
        let said: Vec<&str> = said.lines().map(|line| line.trim_start_matches("ERROR: ").trim()).collect();
        if said.is_empty() { "it did not say why".to_owned() } else { said.join("; ") }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a program says of a full file system is told as anybody else's trouble with one is.
    #[test]
    fn a_full_file_system_is_told_as_such() {
        let check = |says: &str, is_full: bool| {
            let mut command = Command::new("sh");
            command.args(["-c", &format!("echo 'ERROR: {says}' >&2; exit 1")]);
            let error = Child::start("sh", &mut command, Path::new("/somewhere")).unwrap().finish().unwrap_err();
            assert_eq!(matches!(error, SnapshotError::Full { .. }), is_full, "{error}");
            assert!(error.to_string().contains("/somewhere"), "{error}");
        };
        check("writing to disk.raw failed: No space left on device", true);
        check("writing to disk.raw failed: Input/output error", false);
    }
}
