//! What firmware loads: iPXE, in the form that each kind of firmware takes, out of Debian's package.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A kind of firmware, and what it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loader {
    Bios,
    Efi64,
    /// The same by HTTP, for firmware that can.
    Http64,
}

/// Where the package `ipxe` has them.
#[derive(Debug, Clone)]
pub struct Loaders {
    from: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum LoadersError {
    #[error("{} is not here; install the package {package}", path.display())]
    Absent { path: PathBuf, package: &'static str },
    #[error("cannot {doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
}

impl Loader {
    pub const ALL: [Loader; 3] = [Loader::Bios, Loader::Efi64, Loader::Http64];

    pub fn file(self) -> &'static str {
        match self {
            Loader::Bios => "undionly.kpxe",
            // Of the card's own driver in the firmware: what booted so far has one that works.
            Loader::Efi64 | Loader::Http64 => "snponly.efi",
        }
    }

    pub(super) fn tag(self) -> &'static str {
        match self {
            Loader::Bios => "bios",
            Loader::Efi64 => "efi64",
            Loader::Http64 => "http64",
        }
    }

    pub(super) fn is_by_http(self) -> bool {
        self == Loader::Http64
    }

    /// As dnsmasq calls its kind.
    pub(super) fn pxe_services(self) -> &'static [&'static str] {
        match self {
            Loader::Bios => &["x86PC"],
            Loader::Efi64 => &["X86-64_EFI", "BC_EFI"],
            Loader::Http64 => &[],
        }
    }
}

impl Default for Loaders {
    fn default() -> Loaders {
        Loaders { from: "/usr/lib/ipxe".into() }
    }
}

impl Loaders {
    /// Fails if one is not here.
    pub fn check(&self) -> Result<(), LoadersError> {
        let mut paths = Loader::ALL.into_iter().map(|loader| self.from.join(loader.file()));
        paths.find(|path| !path.exists()).map_or(Ok(()), |path| Err(LoadersError::Absent { path, package: "ipxe" }))
    }

    /// Has all be in a folder, which is in another that is for nothing else: a server that is confined to it sees nothing else.
    pub fn put(&self, folder: &Path) -> Result<(), LoadersError> {
        self.check()?;
        // Whatever the daemon's umask is: who serves them is nobody.
        std::fs::create_dir_all(folder).map_err(failed("make", folder))?;
        for folder in folder.ancestors().take(2) {
            let everybody = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(folder, everybody).map_err(failed("open", folder))?;
        }
        for loader in Loader::ALL {
            put(&self.from.join(loader.file()), &folder.join(loader.file()))?;
        }
        Ok(())
    }
}

/// Has a file be there whole, or as it was.
pub(super) fn put(from: &Path, to: &Path) -> Result<(), LoadersError> {
    let unfinished = to.with_added_extension("new");
    let copied = std::fs::copy(from, &unfinished).map_err(failed("copy", from));
    copied.and_then(|_| std::fs::rename(&unfinished, to).map_err(failed("write", to)))
}

pub(super) fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LoadersError {
    let path = path.to_owned();
    move |source| LoadersError::Io { doing, path, source }
}
