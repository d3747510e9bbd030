//! A Linux that is little more than its kernel: it boots by the network in seconds, and says `login:`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::{Lab, netboot_image};

/// What it does: it says who it is by what it was told to boot, and is done.
const INIT: &str = "#!/bin/busybox sh\n/bin/busybox mount -t proc proc /proc\n/bin/busybox sed 's/^/told /' /proc/cmdline\n\
                    /bin/busybox dmesg | /bin/busybox grep -o 'Secure boot .*'\n\
                    echo 'small login:'\n/bin/busybox poweroff -f\n";

/// A folder to be published: a boot package in it, and nothing else.
pub fn small_image(lab: &Lab) -> Result<PathBuf> {
    let image = lab.folder("small")?;
    let package = lab.folder("small/icbd")?;
    fs::copy(kernel(&netboot_image()?.join("tree/boot"))?, package.join("vmlinuz"))?;
    fs::write(package.join("initrd.img"), initramfs(lab)?)?;
    // Where sixteen share two processors, a kernel's test of its timer fails.
    fs::write(package.join("cmdline"), "console=ttyS0 quiet panic=-1 no_timer_check\n")?;
    Ok(image)
}

fn kernel(boot: &Path) -> Result<PathBuf> {
    let is_kernel = |path: &PathBuf| path.to_string_lossy().contains("/vmlinuz-");
    let entries = fs::read_dir(boot)?.map_while(Result::ok);
    entries.map(|entry| entry.path()).find(is_kernel).context("no kernel")
}

/// busybox and what it does, as an archive that the kernel takes: packed, so that it travels as it is, however it is sent.
fn initramfs(lab: &Lab) -> Result<Vec<u8>> {
    let root = lab.folder("small.root")?;
    for folder in ["bin", "dev", "proc"] {
        lab.folder(Path::new("small.root").join(folder))?;
    }
    fs::copy("/usr/bin/busybox", root.join("bin/busybox")).context("copying busybox; install busybox-static")?;
    fs::write(root.join("init"), INIT)?;
    fs::set_permissions(root.join("init"), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let mut cpio = Command::new("sh");
    cpio.args(["-c", "busybox cpio -o -H newc | gzip -9 -n"]).current_dir(&root);
    let mut cpio = cpio.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("starting sh")?;
    cpio.stdin.take().context("it was asked for")?.write_all(b".\nbin\nbin/busybox\ndev\nproc\ninit\n")?;
    let output = cpio.wait_with_output()?;
    ensure!(output.status.success(), "busybox cpio: {}", output.status);
    Ok(output.stdout)
}
