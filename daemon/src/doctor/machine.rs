//! Rights and the kernel.

use std::fs;
use std::path::Path;

use nix::unistd::{Group, Uid};

use super::Finding;

/// What a mount that outlives its daemon, and reads that go past it, need.
const KERNEL: (u32, u32) = (6, 9);
/// The number of CAP_SYS_ADMIN.
const SYS_ADMIN: u64 = 1 << 21;
const GROUP: &str = "icbd";

pub(super) fn look() -> Vec<Finding> {
    [rights(), group(), kernel(), fuse()].into_iter().flatten().collect()
}

fn rights() -> Option<Finding> {
    if !Uid::effective().is_root() {
        let what = "this is not root: what only root may see is not looked at";
        return Some(Finding::warning("rights", what, "run it as root"));
    }
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    let may_mount = u64::from_str_radix(mask.trim(), 16).ok()? & SYS_ADMIN != 0;
    Some(match may_mount {
        true => Finding::ok("rights", "root, and may mount"),
        false => Finding::wrong(
            "rights",
            "root, but without CAP_SYS_ADMIN: nothing can be mounted",
            "in a container, give it this capability and /dev/fuse, or run icbd outside",
        ),
    })
}

fn group() -> Option<Finding> {
    let is_there = Group::from_name(GROUP).ok()?.is_some();
    let what = "there is no group icbd, so root alone may control the daemons; `systemd-sysusers` makes it where the package is installed";
    (!is_there).then(|| Finding::note("rights", what))
}

fn kernel() -> Option<Finding> {
    let uname = nix::sys::utsname::uname().ok()?;
    let release = uname.release().to_string_lossy().into_owned();
    let version = version(&release)?;
    Some(match version >= KERNEL {
        true => Finding::ok(
            "kernel",
            format!("Linux {release}: a mount outlives its daemon, and whole files are read past it"),
        ),
        false => Finding::warning(
            "kernel",
            format!(
                "Linux {release}: a daemon that ends takes its mount with it, an upgrade waits until nobody reads, and every \
                 read goes through the daemon"
            ),
            "install Linux 6.9 or later, on Debian 12 the package linux-image-amd64 of bookworm-backports",
        ),
    })
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn fuse() -> Option<Finding> {
    let is_absent = !Path::new("/dev/fuse").exists();
    is_absent.then(|| Finding::wrong("kernel", "there is no /dev/fuse: nothing can be mounted", "modprobe fuse"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared_as_numbers() {
        for (release, expected) in
            [("6.18.0-3-amd64", Some((6, 18))), ("6.9", Some((6, 9))), ("linux", None), ("6", None)]
        {
            assert_eq!(version(release), expected, "{release}");
        }
        assert!(version("6.18.1") > Some(KERNEL) && version("6.1.0-9-amd64") < Some(KERNEL));
    }
}
