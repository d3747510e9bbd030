//! The store's directory: made, locked for one daemon, and checked for its format.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::{CacheError, layout};

/// The format of the store's directory and of all in it that has no format of its own.
const FORMAT: u32 = 1;
const FORMAT_PREFIX: &str = "icbd-store ";

/// The right to a store; given back when dropped, also by a kill.
#[derive(Debug)]
pub(crate) struct StoreLock(#[expect(dead_code, reason = "held, not read")] Flock<File>);

/// Makes the directory if need be, takes the lock, and checks that this icbd understands the store.
pub(crate) fn open(store: &Path) -> Result<StoreLock, CacheError> {
    // Machine images hold secrets: nobody else may look.
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(store);
    made.map_err(CacheError::disk("make the store", store))?;
    let lock = lock(store)?;
    check_format(store)?;
    Ok(lock)
}

fn lock(store: &Path) -> Result<StoreLock, CacheError> {
    let path = store.join(layout::LOCK);
    let failed = |error| CacheError::disk("lock", path.clone())(error);
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let mut lock = match Flock::lock(file.map_err(failed)?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((mut file, Errno::EWOULDBLOCK)) => {
            let mut owner = String::new();
            let _ = file.read_to_string(&mut owner);
            let owner = if owner.trim().is_empty() { "(unknown)".to_owned() } else { owner.trim().to_owned() };
            return Err(CacheError::InUse { store: store.to_owned(), owner });
        }
        Err((_, errno)) => return Err(failed(errno.into())),
    };
    let written = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
    written.map_err(failed)?;
    Ok(StoreLock(lock))
}

fn check_format(store: &Path) -> Result<(), CacheError> {
    let path = store.join(layout::FORMAT);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let written = fs::write(&path, format!("{FORMAT_PREFIX}{FORMAT}\n"));
            return written.map_err(CacheError::disk("write", path));
        }
        Err(error) => return Err(CacheError::disk("read", path)(error)),
    };
    let found = text.trim().strip_prefix(FORMAT_PREFIX).and_then(|number| number.parse().ok());
    match found {
        Some(found) if found > FORMAT => Err(CacheError::NewerStore { store: store.to_owned(), found, ours: FORMAT }),
        Some(_) => Ok(()),
        // A power cut right after the store was made leaves an empty file.
        None if text.is_empty() => {
            fs::write(&path, format!("{FORMAT_PREFIX}{FORMAT}\n")).map_err(CacheError::disk("write", path))
        }
        None => Err(CacheError::disk("understand", path)(io::Error::other("it is not the format of an icbd store"))),
    }
}
