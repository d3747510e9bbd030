//! The Debian package: the same from the same source, and on a bare server from its installation to its end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use icbd_tests::{Lab, Vm, bare_machine, build_package, run_bounded};

/// Two boots of a server and what is done in them take some minutes where the CPU is emulated, and many where others share it.
const RUN_DEADLINE: Duration = Duration::from_secs(1200);
const TOOL_DEADLINE: Duration = Duration::from_secs(60);

/// Who builds the same source twice gets the same package.
#[test]
fn the_package_is_reproducible() -> Result<()> {
    let lab = Lab::new()?;
    let (one, other) = (build_package(&lab.folder("one")?, "0.1.0")?, build_package(&lab.folder("other")?, "0.1.0")?);
    ensure!(fs::read(&one)? == fs::read(&other)?, "two builds differ");
    let mut list = Command::new("dpkg-deb");
    list.arg("--contents").arg(&one);
    run_bounded(list, TOOL_DEADLINE)?.failed_with(0)?.prints(&[
        "-rwxr-xr-x root/root",
        " ./usr/bin/icbd\n",
        " ./usr/sbin/mount.icbd\n",
        " ./usr/lib/systemd/system/icbd-cache.service\n",
        " ./usr/lib/systemd/system/icbd-master.service\n",
        " ./usr/lib/sysusers.d/icbd.conf\n",
        " ./usr/lib/tmpfiles.d/icbd.conf\n",
        " ./usr/share/bash-completion/completions/icbd\n",
        " ./usr/share/icbd/icbd-cache.toml\n",
        " ./usr/share/man/man1/icbd-image-publish.1.gz\n",
        " ./usr/share/man/man8/mount.icbd.8.gz\n",
    ])?;
    Ok(())
}

/// The package installs on a bare server, starts both units, mounts by fstab at boot, is upgraded under readers without an error, and
/// keeps what people made when it is purged.
#[test]
fn a_bare_server_lives_with_the_package() -> Result<()> {
    let lab = Lab::new()?;
    let machine = bare_machine()?;
    let disk = steps(&lab)?;
    let mut vm = Vm::boot_server(&lab, &machine, "root=/dev/vda rw", &disk)?;
    // A step that goes wrong ends the machine without these words.
    let ended = ["boot 1 ends with code 0", "boot 2 ends with code 0"].map(|words| vm.wait_for(words, RUN_DEADLINE));
    println!("{}", vm.said());
    for (boot, ended) in ended.into_iter().enumerate() {
        println!("boot {} was over after {:.1} s", boot + 1, ended?.as_secs_f64());
    }
    Ok(())
}

/// A disk with two releases of the package and what is to be done with them.
fn steps(lab: &Lab) -> Result<std::path::PathBuf> {
    let folder = lab.folder("steps")?;
    for (name, version) in [("first.deb", "0.1.0"), ("second.deb", "0.1.1")] {
        fs::rename(build_package(&folder, version)?, folder.join(name))?;
    }
    let run = folder.join("run");
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("lab/package-steps.sh"), &run)?;
    fs::set_permissions(&run, fs::Permissions::from_mode(0o755))?;
    let disk = lab.path("steps.raw");
    let mut make = Command::new("mke2fs");
    make.args(["-q", "-t", "ext4", "-O", "^has_journal", "-d"]).arg(folder).arg(&disk).arg("128M");
    run_bounded(make, TOOL_DEADLINE)?.ok()?;
    Ok(disk)
}
