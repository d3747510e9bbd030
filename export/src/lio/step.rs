//! One change of what LIO serves, which is done or is not.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::backing::Backing;
use super::refused;
use crate::{ServerError, program};

/// To end sessions takes as long as what they read, and that may come from far away.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// A change that happens whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Folder(PathBuf),
    Link {
        at: PathBuf,
        to: PathBuf,
    },
    Attribute(PathBuf, Vec<u8>),
    /// Chooses a loop device for a backstore.
    Choose(Backing),
    /// Has the loop device be the disk.
    Attach(Backing),
    /// Has the backstore open the loop device.
    Open(Backing),
    /// Has the loop device end with the backstore.
    Tie(Backing),
    /// Lets nobody in, and logs out who is.
    Off(PathBuf),
    Unlinked(PathBuf),
    Gone(PathBuf),
    /// Unless it is somebody else's, too.
    GoneIfEmpty(PathBuf),
    /// Has the loop device end, at the latest when nobody has it open.
    Free(Backing),
}

impl Step {
    pub fn is_done(&self) -> bool {
        match self {
            Step::Folder(path) => path.is_dir(),
            Step::Link { at, .. } => at.is_symlink(),
            Step::Attribute(path, value) => shows(path, value),
            Step::Choose(backing) => backing.is_chosen(),
            Step::Attach(backing) => backing.is_open() || backing.is_attached(),
            Step::Open(backing) => backing.is_open(),
            Step::Tie(backing) => backing.is_tied(),
            Step::Off(path) => shows(path, b"0"),
            Step::Unlinked(path) => !path.is_symlink(),
            Step::Gone(path) | Step::GoneIfEmpty(path) => !path.exists(),
            Step::Free(backing) => backing.is_free(),
        }
    }

    /// Does it, unless it is done.
    pub fn take(&self) -> Result<(), ServerError> {
        if self.is_done() {
            return Ok(());
        }
        match self {
            Step::Folder(path) => std::fs::create_dir(path).map_err(failed("make", path)),
            Step::Link { at, to } => std::os::unix::fs::symlink(to, at).map_err(failed("make", at)),
            Step::Attribute(path, value) => write(path, value),
            Step::Choose(backing) => backing.choose(),
            Step::Attach(backing) => backing.attach(),
            Step::Open(backing) => backing.open(),
            Step::Tie(backing) | Step::Free(backing) => backing.detach(),
            Step::Off(path) => {
                let off = ["-c".as_ref(), r#"printf '0\n' >"$0""#.as_ref(), path.as_os_str()];
                run("sh", "dash", &off, &format!("to log out who uses {}", path.display()))
            }
            Step::Unlinked(path) => std::fs::remove_file(path).map_err(failed("remove", path)),
            Step::Gone(path) => std::fs::remove_dir(path).map_err(failed("remove", path)),
            Step::GoneIfEmpty(path) => match std::fs::remove_dir(path) {
                Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => Err(failed("remove", path)(error)),
                _ => Ok(()),
            },
        }
    }
}

/// Whether an attribute is a value, or a text that ends with it.
fn shows(path: &Path, value: &[u8]) -> bool {
    let Ok(shown) = std::fs::read(path) else { return false };
    let shown = shown.strip_suffix(b"\n").unwrap_or(&shown);
    let before = shown.strip_suffix(value);
    before.is_some_and(|before| before.is_empty() || before.ends_with(b": "))
}

/// Writes an attribute, in one piece.
pub(super) fn write(path: &Path, value: &[u8]) -> Result<(), ServerError> {
    // It is there, or what it belongs to is not.
    let write = || {
        let mut file = std::fs::OpenOptions::new().write(true).open(path)?;
        io::Write::write_all(&mut file, &[value, b"\n"].concat())
    };
    write().map_err(failed("write", path))
}

/// Runs a program that may have to wait for who answers reads.
pub(super) fn run(
    name: &'static str,
    package: &'static str,
    args: &[&std::ffi::OsStr],
    what: &str,
) -> Result<(), ServerError> {
    let mut command = Command::new(name);
    command.args(args).env("LC_ALL", "C");
    let output = program::run(command, ANSWER_MAX).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => ServerError::NotInstalled { program: name, package },
        _ => failed("run", name.as_ref())(source),
    })?;
    match output {
        None => Err(refused(what.to_owned(), format!("{name} did not end within {} s", ANSWER_MAX.as_secs()))),
        Some(output) if output.status.success() => Ok(()),
        Some(output) => Err(refused(what.to_owned(), String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

fn failed(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> ServerError {
    let path = path.to_owned();
    move |source| ServerError::Io { doing, path: path.clone(), source }
}
