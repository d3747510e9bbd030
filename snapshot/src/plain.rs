//! Trees of copied files, for file systems that share no blocks: what is a hole stays one, all else is copied.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use crate::backend::Kind;
use crate::directories::Directories;

pub(crate) fn open() -> Directories {
    Directories { kind: Kind::Plain, copy_file: copy_data }
}

fn copy_data(from: BorrowedFd<'_>, to: BorrowedFd<'_>, bytes: u64) -> io::Result<()> {
    let (mut from, mut to) = (File::from(from.try_clone_to_owned()?), File::from(to.try_clone_to_owned()?));
    to.set_len(bytes)?;
    let mut at = 0;
    while at < bytes {
        let data = match rustix::fs::seek(&from, rustix::fs::SeekFrom::Data(at)) {
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => break,
            data => data?,
        };
        let hole = match rustix::fs::seek(&from, rustix::fs::SeekFrom::Hole(data)) {
            // Cut off since there was data.
            Err(Errno::NXIO) => return Err(io::ErrorKind::UnexpectedEof.into()),
            hole => hole?.min(bytes),
        };
        from.seek(SeekFrom::Start(data))?;
        to.seek(SeekFrom::Start(data))?;
        // In the kernel, where it can.
        let copied = io::copy(&mut (&from).take(hole.saturating_sub(data)), &mut to)?;
        if data + copied < hole {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        at = hole;
    }
    Ok(())
}
