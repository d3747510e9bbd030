//! The Debian package of what was built, and the bare server on which it is tried.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::{icbd_path, run_bounded};

/// Building the machine takes a minute or two when nothing else runs, most of it downloads.
const MACHINE_DEADLINE: Duration = Duration::from_secs(900);
/// Stripping and packing takes seconds.
const PACKAGE_DEADLINE: Duration = Duration::from_secs(300);

/// Makes the package of that version in `out`; its path.
pub fn build_package(out: &Path, version: &str) -> Result<PathBuf> {
    let mut build = Command::new(source()?.join("mount-helpers/debian/build.sh"));
    let programs = icbd_path()?;
    build.arg(programs.parent().context("the program lies in a folder")?).arg(out).arg(version);
    // Quickly, because nobody keeps it.
    build.env("COMPRESS", "gzip");
    Ok(run_bounded(build, PACKAGE_DEADLINE)?.ok()?.trim().into())
}

/// The folder with the machine that `build-bare-machine.sh` makes. Built on first use, kept in `target/lab`.
pub fn bare_machine() -> Result<PathBuf> {
    let machine = source()?.join("target/lab/bare");
    let mut build = Command::new(source()?.join("tests/lab/build-bare-machine.sh"));
    build.arg(&machine);
    run_bounded(build, MACHINE_DEADLINE)?.ok()?;
    Ok(machine)
}

fn source() -> Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the tests lie in a workspace")
}
