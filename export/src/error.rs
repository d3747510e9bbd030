//! Why a server does not serve what it should.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("{key} is \"off\" in the configuration; set it to \"auto\", and run `icbd config reload`")]
    Off { key: &'static str },
    #[error("{program} is not here; install the package {package}")]
    NotInstalled { program: &'static str, package: &'static str },
    #[error("{server} does not answer ({said}); start it: systemctl start {unit}")]
    NotRunning { server: &'static str, unit: &'static str, said: String },
    #[error(
        "{server} is not here, for there is no {}; run: modprobe -a target_core_mod iscsi_target_mod, and where configfs is not \
         mounted: mount -t configfs configfs /sys/kernel/config",
        path.display()
    )]
    NotLoaded { server: &'static str, path: PathBuf },
    #[error(
        "{server} cannot keep {what} to {clients}: it knows workstations by their names only; use --clone, for a disk of each \
         one's own, --clients 0.0.0.0/0 for everybody, or tgtd, with iscsi = \"tgt\" below [export]"
    )]
    Networks { server: &'static str, what: String, clients: String },
    #[error("{server} refused {what}: {said}")]
    Refused { server: &'static str, what: String, said: String },
    #[error("{server} said something that icbd does not understand: {said:?}")]
    Strange { server: &'static str, said: String },
    #[error(
        "{} was edited by hand, so icbd changes nothing; move what is yours to a file of your own and remove this one",
        path.display()
    )]
    HandEdited { path: PathBuf },
    #[error(
        "{} does not bring icbd's exports in; add the line {line} at its end, and run: systemctl reload nfs-ganesha",
        path.display()
    )]
    NotIncluded { path: PathBuf, line: String },
    #[error("cannot {doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
}
