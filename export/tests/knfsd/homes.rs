//! Home directories from somebody's file server, by the recipe in `docs/linux-image.md`.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use icbd_tests::wait_for;

use crate::site::{CLIENT, SERVER, Site};

const DOCUMENT: &str = include_str!("../../../docs/linux-image.md");

/// A file that the document shows, by the comment with which it begins.
fn shown(path: &str) -> Result<&'static str> {
    let (_, file) = DOCUMENT.split_once(&format!("```\n# {path}\n")).with_context(|| format!("no {path}"))?;
    Ok(file.split_once("```").context("the end of a file")?.0)
}

/// Who goes to a home directory has it mounted, and writes to it, on a machine with the two files that the document shows.
pub(crate) fn are_mounted_for_who_goes_there(site: &Site) -> Result<()> {
    fs::create_dir_all("/srv/homes/anna")?;
    fs::write("/srv/homes/anna/letter", "of hers")?;
    site.server.run(&format!("exportfs -o rw,fsid=97,no_subtree_check,no_root_squash {CLIENT}:/srv/homes"))?;
    fs::write("/etc/auto.master.d/home.autofs", shown("/etc/auto.master.d/home.autofs")?)?;
    // There is no Kerberos here, and another file server.
    let (theirs, ours) = ("files.example:/home/", format!("{SERVER}:/srv/homes/"));
    let map = shown("/etc/auto.home")?;
    ensure!(map.contains(theirs) && map.contains(",sec=krb5p"), "the document has changed: {map}");
    fs::write("/etc/auto.home", map.replace(theirs, &ours).replace(",sec=krb5p", ""))?;
    let mut automount = Command::new("nsenter")
        .args(["--net=/run/netns/client", "automount", "--foreground"])
        // The kernel knows it by its process group, and that of this machine's first process has no number.
        .process_group(0)
        .spawn()
        .context("starting automount")?;
    let letter = wait_for("a home directory", || Ok(fs::read_to_string("/home/anna/letter").ok()));
    let written = fs::write("/home/anna/answer", "to it");
    rustix::process::kill_process(rustix::process::Pid::from_child(&automount), rustix::process::Signal::TERM)?;
    let ended = automount.wait()?;
    ensure!(letter? == "of hers" && ended.success(), "{ended}");
    written.context("writing to a home directory")?;
    ensure!(fs::read_to_string("/srv/homes/anna/answer")? == "to it", "it was not written to the file server");
    ensure!(!fs::exists("/home/anna/letter")?, "it is mounted still");
    site.server.run(&format!("exportfs -u {CLIENT}:/srv/homes")).map(drop)
}
