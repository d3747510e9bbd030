//! Trees that are open. What may be done with one is in its type.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A tree that may change.
#[derive(Debug)]
pub struct Writable(Open);

/// A tree that never changes: read-only where the kernel can hold it so, else by nobody's writing to it.
#[derive(Debug)]
pub struct Sealed(Open);

/// Whether a tree may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Writable,
    Sealed,
}

/// Any tree that is open. It stays the same tree, and readable, whatever is done at its path meanwhile.
pub trait Tree: AsOpen {
    /// Where it was opened.
    fn path(&self) -> &Path {
        &self.as_open().path
    }

    /// Its place below the store's directory.
    fn at(&self) -> &Path {
        &self.as_open().at
    }

    /// The directory itself.
    fn directory(&self) -> BorrowedFd<'_> {
        self.as_open().directory.as_fd()
    }
}

impl Tree for Writable {}
impl Tree for Sealed {}

use private::AsOpen;

mod private {
    /// Keeps trees from being implemented elsewhere.
    pub trait AsOpen {
        fn as_open(&self) -> &super::Open;
    }

    impl AsOpen for super::Writable {
        fn as_open(&self) -> &super::Open {
            &self.0
        }
    }

    impl AsOpen for super::Sealed {
        fn as_open(&self) -> &super::Open {
            &self.0
        }
    }
}

/// What both are.
#[derive(Debug)]
pub struct Open {
    path: PathBuf,
    at: PathBuf,
    directory: OwnedFd,
}

impl Open {
    pub(crate) fn new(path: PathBuf, at: PathBuf, directory: OwnedFd) -> Open {
        Open { path, at, directory }
    }
}

impl Writable {
    pub(crate) fn new(open: Open) -> Writable {
        Writable(open)
    }
}

impl Sealed {
    pub(crate) fn new(open: Open) -> Sealed {
        Sealed(open)
    }
}
