//! The store's directory: looked at, made, locked for one daemon, and checked for its format.

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
/// What a master's repository holds and a store does not; FORMAT.md, "Repository on disk".
const REPOSITORY_MARKS: [&str; 2] = ["repository.lock", "publishing"];
/// What a file system makes by itself.
const LOST_AND_FOUND: &str = "lost+found";

/// The right to a store; given back when dropped, also by a kill.
#[derive(Debug)]
pub(crate) struct StoreLock(#[expect(dead_code, reason = "held, not read")] Flock<File>);

/// Makes the directory if need be, takes the lock, and checks that this icbd understands the store.
pub(crate) fn open(store: &Path) -> Result<StoreLock, CacheError> {
    check_ours(store)?;
    // Machine images hold secrets: nobody else may look.
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(store);
    made.map_err(CacheError::disk("make the store", store))?;
    let lock = lock(store)?;
    check_format(store)?;
    Ok(lock)
}

/// Refuses what is somebody else's before anything is written to it: above all a master's repository, whose catalogue
/// has the same name and other tables.
fn check_ours(store: &Path) -> Result<(), CacheError> {
    let refused = |holds: String| CacheError::NotAStore { store: store.to_owned(), holds };
    if let Some(mark) = REPOSITORY_MARKS.into_iter().find(|mark| store.join(mark).exists()) {
        return Err(refused(format!("a master's repository (`{mark}`)")));
    }
    let is_nothing = |error: &io::Error| matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
    let format = fs::read(store.join(layout::FORMAT));
    match &format {
        Err(error) if !is_nothing(error) => {
            let doing = CacheError::disk("read", store.join(layout::FORMAT));
            return Err(doing(io::Error::new(error.kind(), error.to_string())));
        }
        Ok(text) if text.starts_with(FORMAT_PREFIX.as_bytes()) => return Ok(()),
        Ok(text) if !text.is_empty() => return Err(refused(format!("a file `{}` that no icbd wrote", layout::FORMAT))),
        _ => {}
    }
    let entries = match fs::read_dir(store) {
        Ok(entries) => entries,
        // It is made next, or that says why it cannot be.
        Err(error) if is_nothing(&error) => return Ok(()),
        Err(error) => return Err(CacheError::disk("list", store)(error)),
    };
    for entry in entries {
        let name = entry.map_err(CacheError::disk("list", store))?.file_name();
        let name = name.to_string_lossy();
        // A first start that was interrupted leaves the lock; a power cut soon after it an empty format.
        let is_ours = match format {
            Ok(_) => layout::is_ours(&name),
            Err(_) => name == layout::LOCK,
        };
        if !is_ours
            && layout::is_ours(&name)
            && [layout::CATALOGUE, layout::FILLING].iter().all(|part| store.join(part).exists())
        {
            return Err(CacheError::NoFormat { store: store.to_owned(), ours: FORMAT });
        }
        if !is_ours && name != LOST_AND_FOUND {
            return Err(refused(format!("other files (`{}`)", name.escape_debug())));
        }
    }
    Ok(())
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
    // Only said to whoever comes second; a full disk must keep nobody from what it holds.
    if let Err(error) = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id())) {
        tracing::warn!(path = %path.display(), %error, "it cannot be noted who owns the store");
    }
    Ok(StoreLock(lock))
}

fn check_format(store: &Path) -> Result<(), CacheError> {
    let path = store.join(layout::FORMAT);
    let text = match fs::read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return write_format(store).map_err(CacheError::disk("write", path));
        }
        Err(error) => return Err(CacheError::disk("read", path)(error)),
    };
    let found = text.trim().strip_prefix(FORMAT_PREFIX).and_then(|number| number.parse().ok());
    match found {
        Some(found) if found > FORMAT => Err(CacheError::NewerStore { store: store.to_owned(), found, ours: FORMAT }),
        Some(_) => Ok(()),
        // A power cut right after the store was made leaves an empty file.
        None if text.is_empty() => write_format(store).map_err(CacheError::disk("write", path)),
        None => Err(CacheError::disk("understand", path)(io::Error::other("it is not the format of an icbd store"))),
    }
}

/// Durable, for without it nobody knows that the rest is a store.
fn write_format(store: &Path) -> io::Result<()> {
    let mut file = File::create(store.join(layout::FORMAT))?;
    writeln!(file, "{FORMAT_PREFIX}{FORMAT}")?;
    file.sync_all()?;
    File::open(store)?.sync_all()
}
