//! Where versions are kept: what its file system can do, and how much room there is.

use std::path::Path;

use icbd_snapshot::{Finding as Tried, Probe};

use super::{Finding, Verdict};
use crate::output::bytes;

/// Looks at the directory itself, or at the nearest above it that is there.
pub(super) fn look(path: &Path, reserve_bytes: Option<u64>) -> Vec<Finding> {
    let Some(nearest) = path.ancestors().find(|path| path.is_dir()) else { return Vec::new() };
    let mut findings = Vec::new();
    if nearest != path {
        let what = format!("{} is not there yet; it is made at the first start", path.display());
        findings.push(Finding::note("store", what));
    }
    let probe = match Probe::run(nearest) {
        Ok(probe) => probe,
        Err(error) => {
            findings.push(Finding::error("store", Verdict::Wrong, error));
            return findings;
        }
    };
    findings.extend(probe.faults().map(|fault| {
        let what = format!("the file system of {} does not do what it says: {fault}", probe.path.display());
        Finding::wrong("store", what, "keep no versions on it, and update this machine's kernel")
    }));
    findings.push(reflinks(&probe));
    let free = format!("{} of {} free", bytes(probe.free_bytes), bytes(probe.size_bytes));
    findings.push(match probe.free_bytes <= reserve_bytes.unwrap_or(0) {
        true => Finding::wrong(
            "store",
            format!("{free} on {}: nothing more is kept", probe.mounted_at.display()),
            "make room there, or set store.quota and store.min_free lower",
        ),
        false => Finding::ok("store", format!("{free} on {}", probe.mounted_at.display())),
    });
    findings
}

/// Where all images are to be seen.
pub(super) fn look_at_mount(path: &Path) -> Finding {
    match path.symlink_metadata() {
        Ok(_) => Finding::ok("mount", format!("{} is there", path.display())),
        // What was mounted by one who was killed.
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Finding::note("mount", format!("{} cannot be looked at: {error}", path.display()))
        }
        Err(_) => Finding::wrong(
            "mount",
            format!("the mount point {} does not exist", path.display()),
            format!("`mkdir -p {}`", path.display()),
        ),
    }
}

fn reflinks(probe: &Probe) -> Finding {
    let (path, file_system) = (probe.path.display(), &probe.file_system);
    match &probe.reflinks {
        Tried::Works(_) => {
            Finding::ok("store", format!("{path} is {file_system}: what versions have in common is kept once"))
        }
        Tried::Refused(why) => Finding::warning(
            "store",
            format!(
                "{path} is {file_system}, which shares nothing ({why}): what versions have in common takes room in each"
            ),
            "put it on btrfs, or on XFS with reflink=1; `icbd store probe` says more",
        ),
        // Said as a fault.
        Tried::Wrong(_) => Finding::note("store", format!("{path} is {file_system}")),
    }
}
