//! Who may read what: nobody but root gets into the mount, the store and the repository by default, and inside a
//! version the published owners, groups and modes hold.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use icbd_tests::{CacheServer, CacheSettings, Lab, Master, Output, run_bounded};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

const NOBODY: u32 = 65534;
/// A user and a group that own something in the version; no account needs to have them.
const OWNER: u32 = 4321;
const GROUP: u32 = 8765;

/// Whoever asks: a user, the groups.
#[derive(Debug, Clone, Copy)]
struct Who {
    uid: u32,
    groups: &'static [u32],
}

const ROOT: Who = Who { uid: 0, groups: &[0] };
const STRANGER: Who = Who { uid: NOBODY, groups: &[NOBODY] };
const MEMBER: Who = Who { uid: NOBODY, groups: &[NOBODY, GROUP] };
const THE_OWNER: Who = Who { uid: OWNER, groups: &[NOBODY] };

impl Who {
    /// Runs a command as this user in `folder`, into which root goes before it becomes somebody else.
    fn run(self, folder: &Path, command: &[&str]) -> Result<Output> {
        let groups: Vec<String> = self.groups.iter().map(ToString::to_string).collect();
        let mut all = Command::new("setpriv");
        all.current_dir(folder).env("LC_ALL", "C");
        all.args([format!("--reuid={}", self.uid), format!("--regid={}", groups[0])]);
        all.arg(format!("--groups={}", groups.join(","))).args(command);
        run_bounded(all, Duration::from_secs(20))
    }
}

struct Site {
    cache: CacheServer,
    master: Master,
    lab: Lab,
}

/// A version with one file or folder of each kind of right.
fn site(settings: &CacheSettings) -> Result<Site> {
    let lab = Lab::new()?;
    // Others get as far as the mount, the store and the repository, whose own modes decide.
    fs::set_permissions(lab.dir(), Permissions::from_mode(0o755))?;
    let tree = lab.folder("tree")?;
    for (name, owner, mode) in [
        ("all", (0, 0), 0o644),
        ("root", (0, 0), 0o600),
        ("owner", (OWNER, GROUP), 0o400),
        ("group", (0, GROUP), 0o640),
        ("not-group", (0, GROUP), 0o604),
    ] {
        // Of the size from which on complete files are read past the daemon.
        icbd_tests::fill(&tree.join(name), 1, icbd_tests::MIB)?;
        chown(tree.join(name), Some(owner.0), Some(owner.1))?;
        fs::set_permissions(tree.join(name), Permissions::from_mode(mode))?;
    }
    for (name, mode) in [("closed", 0o700), ("through", 0o711), ("for-group", 0o750)] {
        fs::create_dir(tree.join(name))?;
        fs::write(tree.join(name).join("file"), "x")?;
        chown(tree.join(name), Some(0), Some(GROUP))?;
        fs::set_permissions(tree.join(name), Permissions::from_mode(mode))?;
    }
    fs::copy("/usr/bin/id", tree.join("set-uid"))?;
    fs::set_permissions(tree.join("set-uid"), Permissions::from_mode(0o4755))?;
    mknod(&tree.join("null"), SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 3))?;
    fs::set_permissions(tree.join("null"), Permissions::from_mode(0o666))?;
    Master::publish_offline(&lab.path("repo"), "lab", &tree, &["--deploy"])?;
    let master = Master::start(&lab, &lab.path("repo"))?;
    let cache = CacheServer::start_with(&lab, &[&master.url()], settings)?;
    Ok(Site { cache, master, lab })
}

fn check(site: &Site, who: Who, command: &[&str], may: bool) -> Result<()> {
    let output = who.run(&site.cache.path("lab/1"), command)?;
    let denied = output.stderr.contains("denied");
    ensure!(
        (output.code == 0, denied) == (may, !may),
        "{who:?} runs {command:?}: expected {}, got {output:?}",
        if may { "success" } else { "a refusal" }
    );
    Ok(())
}

fn published_rights_hold(settings: &CacheSettings) -> Result<()> {
    let site = site(settings)?;
    // Not here yet, then complete.
    for _ in 0..2 {
        for (file, readers) in [
            ("all", &[ROOT, STRANGER, MEMBER, THE_OWNER][..]),
            ("root", &[ROOT]),
            ("owner", &[ROOT, THE_OWNER]),
            ("group", &[ROOT, MEMBER]),
            ("not-group", &[ROOT, STRANGER, THE_OWNER]),
            ("closed/file", &[ROOT]),
            ("through/file", &[ROOT, STRANGER, MEMBER, THE_OWNER]),
            ("for-group/file", &[ROOT, MEMBER]),
        ] {
            for who in [ROOT, STRANGER, MEMBER, THE_OWNER] {
                let may = readers.iter().any(|reader| (reader.uid, reader.groups) == (who.uid, who.groups));
                check(&site, who, &["head", "--bytes=1", file], may).context(file)?;
            }
        }
        for (folder, stranger, member) in
            [("closed", false, false), ("through", false, false), ("for-group", false, true)]
        {
            check(&site, ROOT, &["ls", folder], true)?;
            check(&site, STRANGER, &["ls", folder], stranger)?;
            check(&site, MEMBER, &["ls", folder], member)?;
        }
        site.cache.prefetch_all("lab@1")?;
    }
    // The published mode is shown, and gives nobody anything here.
    ensure!(fs::metadata(site.cache.path("lab/1/set-uid"))?.mode() & 0o7777 == 0o4755, "the mode is not as published");
    let id = STRANGER.run(&site.cache.path("lab/1"), &["./set-uid", "-u"])?.ok()?;
    ensure!(id.trim() == NOBODY.to_string(), "a set-user-id program ran as {id}");
    check(&site, ROOT, &["cat", "null"], false)
}

/// Inside a version the kernel holds everybody to the published owners, groups and modes.
#[test]
fn rights_in_a_version_are_those_that_were_published() -> Result<()> {
    published_rights_hold(&CacheSettings::default())
}

/// The same where complete files are read through the daemon.
#[test]
fn rights_in_a_version_are_those_that_were_published_without_passthrough() -> Result<()> {
    published_rights_hold(&CacheSettings { no_passthrough: true, ..Default::default() })
}

/// Images hold secrets: by default only root, and for the mount root's group, gets in; nobody else may even ask the
/// daemons.
#[test]
fn strangers_get_in_nowhere() -> Result<()> {
    let site = site(&CacheSettings::default())?;
    let text = |path: &Path| path.to_str().map(str::to_owned).context("paths of a lab are text");
    let places =
        [(site.cache.mount(), 0o750), (site.cache.store(), 0o700), (site.master.repo(), 0o700)].map(|(path, mode)| {
            let found = fs::metadata(path).map(|found| (found.mode() & 0o7777, found.uid(), found.gid()));
            (path, mode, found)
        });
    for (path, mode, found) in places {
        ensure!(found.as_ref().is_ok_and(|found| *found == (mode, 0, 0)), "{} is {found:?}", path.display());
        for who in [STRANGER, MEMBER, THE_OWNER] {
            let listed = who.run(site.lab.dir(), &["ls", &text(path)?])?;
            ensure!(listed.code != 0 && listed.stderr.contains("denied"), "{who:?} in {}: {listed:?}", path.display());
        }
    }
    let below = text(&site.cache.path("lab/1/all"))?;
    ensure!(STRANGER.run(site.lab.dir(), &["cat", &below])?.code != 0, "a stranger got past the mount's root");
    let of_group_root = Who { uid: NOBODY, groups: &[0] };
    ensure!(of_group_root.run(site.lab.dir(), &["head", "--bytes=1", &below])?.code == 0, "the root group is let in");
    for socket in [site.cache.socket(), site.master.socket()] {
        let mode = fs::metadata(socket)?.mode() & 0o777;
        ensure!(mode == 0o660, "{socket} has mode {mode:o}");
    }
    Ok(())
}
