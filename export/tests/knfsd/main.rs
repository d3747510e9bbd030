//! The kernel's NFS server serves folders of a real mount to the kernel's own clients, in a machine that has both.

mod homes;
mod site;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use icbd_export::{FileServer, Raised, ServerError, Share};
use icbd_tests::{NfsServer, is_in_kernel_machine, run_in_kernel_machine, wait_for};
use site::{CLIENT, Mounted, NAMES, PIECE, Site, VERSIONS, drop_caches, knfsd};

/// Clients of the kernel's NFS server read what was published, by versions 3 and 4.2, also when the kernel has forgotten it, while the
/// cache's daemon is killed, and after another cache server has taken over the address. What others export stays.
#[test]
fn clients_of_the_kernels_server_read_whatever_happens() -> Result<()> {
    if !is_in_kernel_machine() {
        return run_in_kernel_machine("clients_of_the_kernels_server_read_whatever_happens");
    }
    let started = Instant::now();
    let mut site = Site::new()?;
    let done = |what| println!("{what}: {:.1} s", started.elapsed().as_secs_f64());
    done("set up");
    threads_are_only_raised(&site).context("threads")?;
    done("threads");
    // Before the kernel is told often: see `knfsd.rs`.
    nothing_is_held_that_is_not_served(&mut site).context("serving nothing")?;
    done("serving nothing");
    what_is_exported_is_what_was_declared(&site).context("exports")?;
    done("exports");
    what_is_read_is_what_was_published(&site).context("reading")?;
    done("reading");
    readers_outlive_the_daemon(&mut site).context("killing the daemon")?;
    done("killing");
    new_mounts_are_found(&mut site).context("mounting anew")?;
    done("mounting anew");
    the_daemon_has_it_serve(&site).context("exporting")?;
    done("exporting");
    homes::are_mounted_for_who_goes_there(&site).context("home directories")?;
    done("home directories");
    another_server_takes_over(&site).context("failing over")?;
    done("failing over");
    what_is_amiss_is_said(&site).context("stopping the server")
}

/// As many as it takes for reads that wait, and never fewer than somebody else wants.
fn threads_are_only_raised(site: &Site) -> Result<()> {
    let raised = site.knfsd.raise_threads()?;
    ensure!(raised == Some(Raised { before: 8, now: 64 }), "{raised:?}");
    ensure!(site.server.run("cat /proc/fs/nfsd/threads")?.trim() == "64", "it has other threads");
    site.server.run("echo 70 > /proc/fs/nfsd/threads")?;
    ensure!(site.knfsd.raise_threads()?.is_none(), "somebody's own number was changed");
    ensure!(site.server.run("cat /proc/fs/nfsd/threads")?.trim() == "70", "it has other threads");
    Ok(())
}

/// The server's programs read icbd's file as it is meant, a call that changes nothing leaves the kernel alone, and what somebody
/// changed by hand is put right or refused.
fn what_is_exported_is_what_was_declared(site: &Site) -> Result<()> {
    let knfsd = &site.knfsd;
    let everybody = ["0.0.0.0/0", "198.18.0.9/32", "::/0", "fd00::/64", "fd00::1/128"].map(|net| net.parse());
    let clients = everybody.into_iter().collect::<Result<Vec<_>, _>>()?;
    let wide = [Share { clients, ..site.share("lab", 7)? }, Share { clients: vec![], ..site.share("other", 8)? }];
    ensure!(knfsd.serve(&wide)?, "it was told nothing");
    ensure!(knfsd.served()? == wide, "{:?}", knfsd.served());
    let lines = || -> Result<BTreeSet<String>> {
        Ok(fs::read_to_string(&knfsd.exported)?.lines().map(str::to_owned).collect())
    };
    let told = lines()?;
    ensure!(told.len() == 7, "{told:?}");
    // As when the server is started again.
    site.server.run("exportfs -r")?;
    ensure!(lines()? == told, "its programs read the file otherwise: {:?}, not {told:?}", lines());
    ensure!(!knfsd.serve(&wide)?, "it was told again");

    let shares = site.shares()?;
    ensure!(knfsd.serve(&shares)?, "it was told nothing");
    let told = lines()?;
    ensure!(told.len() == 2, "{told:?}");
    // Changed by hand, by name or as a whole.
    let name = format!("{CLIENT}:{}", shares[0].folder.display());
    for change in
        [format!("exportfs -o rw,root_squash '{name}'"), format!("exportfs -u '{name}'"), "exportfs -au".to_owned()]
    {
        site.server.run(&change)?;
        ensure!(lines()? != told, "{change} changes nothing, so nothing is tried here");
        ensure!(knfsd.serve(&shares)?, "{change} was not put right");
        ensure!(lines()? == told, "after {change} there is {:?}, not {told:?}", lines());
    }

    // By others: one of a folder of theirs, which stays, and those that would be in the way.
    site.server.run("exportfs -o rw,fsid=99,no_subtree_check,no_root_squash 198.18.0.0/24:/srv/theirs")?;
    let told = lines()?;
    ensure!(!knfsd.serve(&shares)? && lines()? == told, "somebody else's export is not left alone");
    let theirs = Share { clients: vec!["198.18.0.64/26".parse()?], ..shares[0].clone() };
    site.server
        .run(&format!("exportfs -o rw,fsid=98,no_subtree_check '198.18.0.64/26:{}'", theirs.folder.display()))?;
    let error = knfsd.serve(&[theirs]).expect_err("somebody else's export is changed").to_string();
    ensure!(error.contains("with other options; end that: exportfs -u '198.18.0.64/26:"), "{error}");
    site.server.run(&format!("exportfs -u '198.18.0.64/26:{}'", shares[0].folder.display()))?;
    let error = knfsd.serve(&[site.share("lab", 99)?]).expect_err("an fsid is there twice").to_string();
    ensure!(error.contains("/srv/theirs is exported with the same fsid"), "{error}");
    let folder = PathBuf::from("/srv/theirs");
    let error =
        knfsd.serve(&[Share { folder, ..shares[0].clone() }]).expect_err("it is on no mount of icbd").to_string();
    ensure!(error.contains("nothing is mounted there"), "{error}");

    ensure!(knfsd.serve(&shares)? && lines()? == told, "after what was refused there is {:?}, not {told:?}", lines());

    let text = fs::read_to_string(&knfsd.exports)?;
    let edited = text.replace("(ro,", "(rw,");
    ensure!(edited != text, "nothing is edited");
    fs::write(&knfsd.exports, &edited)?;
    for shares in [&shares[..], &[]] {
        let refused = knfsd.serve(shares);
        ensure!(matches!(refused, Err(ServerError::HandEdited { .. })), "{refused:?}");
    }
    ensure!(fs::read_to_string(&knfsd.exports)? == edited && lines()? == told, "something was changed");
    // Once it is gone, what is exported is taken for icbd's again.
    fs::remove_file(&knfsd.exports)?;
    ensure!(knfsd.serve(&shares)? && lines()? == told, "{:?}", lines());
    ensure!(fs::read_to_string(&knfsd.exports)? == text, "the file is another one");
    ensure!(!knfsd.serve(&shares)?, "it was told again");
    Ok(())
}

fn what_is_read_is_what_was_published(site: &Site) -> Result<()> {
    let disk = site.published("disk.raw")?;
    for version in VERSIONS {
        let mounted = site.mount(version, "lab")?;
        for round in ["at once", "when it was forgotten"] {
            ensure!(fs::read(mounted.path("1/disk.raw"))? == disk, "other bytes came by {version}, {round}");
            drop_caches()?;
        }
        ensure!(mounted.names("1/many")? == site.names()?, "other names came by {version}");
        let known = || site.server.run("cat /proc/net/rpc/nfsd.export/content");
        ensure!(known()?.contains("fsid=7"), "the kernel knows of nothing, so nothing is tried here");
        ensure!(!site.knfsd.serve(&site.shares()?)?, "it was told again");
        ensure!(known()?.contains("fsid=7"), "the kernel was made to forget what it serves without need");
        let written = fs::write(mounted.path("1/new"), b"x");
        ensure!(written.is_err(), "it was written to");
        let clients = site.knfsd.clients()?;
        ensure!(clients == [CLIENT.parse::<std::net::IpAddr>()?], "{clients:?} by {version}");
        // Nobody else is let in.
        let elsewhere = [Share { clients: vec!["198.51.100.0/24".parse()?], ..site.share("lab", 7)? }];
        site.knfsd.serve(&elsewhere)?;
        ensure!(fs::read_dir(mounted.path("1/boot")).is_err(), "somebody else reads by {version}");
        let everybody = [Share { clients: vec!["0.0.0.0/0".parse()?], ..site.share("lab", 7)? }];
        site.knfsd.serve(&everybody)?;
        ensure!(
            fs::read(mounted.path("1/boot/vmlinuz")).context("everybody")? == b"lab",
            "other bytes came by {version}"
        );
        drop(mounted);
        site.knfsd.serve(&site.shares()?)?;
    }
    let version = VERSIONS[1];
    for nets in ["::/0", "fd00::/64"] {
        site.knfsd.serve(&[Share { clients: vec![nets.parse()?], ..site.share("lab", 7)? }])?;
        let mounted = site.mount_from("[fd00::10]", version, &site.cache.path("lab")).context(nets)?;
        ensure!(fs::read(mounted.path("1/boot/vmlinuz"))? == b"lab", "other bytes came by {version} from {nets}");
        let clients = site.knfsd.clients()?;
        ensure!(clients.contains(&"fd00::1".parse()?), "{clients:?} by {version} from {nets}");
    }
    site.knfsd.serve(&site.shares()?)?;
    wait_for("that nobody is connected", || Ok(site.knfsd.clients()?.is_empty().then_some(())))?;
    let portals = site.knfsd.portals()?;
    ensure!(portals.contains(&"0.0.0.0:2049".parse()?), "{portals:?}");
    Ok(())
}

/// Whoever reads a file or a list when the cache's daemon is killed waits for the next one, and reads on.
fn readers_outlive_the_daemon(site: &mut Site) -> Result<()> {
    for version in VERSIONS {
        let mounted = site.mount(version, "lab")?;
        let name = format!("{version}.raw");
        let mut file = File::open(mounted.path(format!("1/{name}")))?;
        let mut start = vec![0; PIECE];
        file.read_exact(&mut start)?;
        let rest = site.killed_meanwhile(move || {
            let mut rest = Vec::new();
            file.read_to_end(&mut rest)?;
            Ok(rest)
        })?;
        ensure!([start, rest].concat() == site.published(&name)?, "other bytes came by {version}");

        let mut entries = fs::read_dir(mounted.path("1/many"))?;
        let mut names: Vec<_> = entries.by_ref().take(10).collect::<Result<_, _>>()?;
        let rest = site.killed_meanwhile(move || Ok(entries.collect::<Result<Vec<_>, _>>()?))?;
        names.extend(rest);
        ensure!(names.len() == NAMES, "{} names came by {version}", names.len());
        let names: BTreeSet<_> = names.into_iter().map(|entry| entry.file_name()).collect();
        ensure!(names == site.names()?, "other names came by {version}");
    }
    Ok(())
}

/// A mount that took another one's place is what clients read from once the server is told, by the handles that they have.
fn new_mounts_are_found(site: &mut Site) -> Result<()> {
    let shares = site.shares()?;
    let mounted = VERSIONS.map(|version| site.mount(version, "lab")).into_iter().collect::<Result<Vec<_>>>()?;
    let device = |site: &Site| fs::metadata(site.cache.mount()).map(|metadata| metadata.dev());
    let before = device(site)?;
    let mut files = Vec::new();
    for mounted in &mounted {
        let mut file = File::open(mounted.path("1/disk.raw"))?;
        file.read_exact(&mut [0; PIECE])?;
        files.push(file);
    }
    site.cache.daemon.allow_log("the mount is in use");
    site.cache.daemon.stop()?;
    site.cache.start_again(&site.lab)?;
    ensure!(device(site)? != before, "the mount has the same device number, so nothing is tried here");
    ensure!(site.knfsd.serve(&shares)?, "it was told nothing");
    ensure!(!site.knfsd.serve(&shares)?, "it was told again");
    drop_caches()?;
    for (mut file, version) in files.into_iter().zip(VERSIONS) {
        file.seek(SeekFrom::Start(0))?;
        let mut bytes = Vec::new();
        let read = file.read_to_end(&mut bytes);
        // The server has what a client of version 4 opened open itself, on the mount that is no more.
        let is_excused = version != "3" && read.is_err();
        ensure!(is_excused || bytes == site.published("disk.raw")?, "{read:?} by {version}");
    }
    drop_caches()?;
    for mounted in &mounted {
        ensure!(fs::read(mounted.path("1/disk.raw"))? == site.published("disk.raw")?, "other bytes came, {mounted:?}");
    }
    // Whoever is started anew does not know what the kernel holds, and has it forgotten once.
    let other = knfsd();
    ensure!(other.serve(&shares)? && !other.serve(&shares)?, "it was told otherwise than once");
    Ok(())
}

/// When nothing is served any more nothing keeps the mount, though clients have files open; what others export goes on.
fn nothing_is_held_that_is_not_served(site: &mut Site) -> Result<()> {
    site.knfsd.serve(&site.shares()?)?;
    site.server.run("exportfs -o rw,fsid=99,no_subtree_check,no_root_squash 198.18.0.0/24:/srv/theirs")?;
    let theirs = site.mount_path("4.2", Path::new("/srv/theirs"))?;
    let mut their_file = File::open(theirs.path("file"))?;
    let mounted = VERSIONS.map(|version| site.mount(version, "lab")).into_iter().collect::<Result<Vec<_>>>()?;
    let mut files = Vec::new();
    for mounted in &mounted {
        let mut file = File::open(mounted.path("1/disk.raw"))?;
        file.read_exact(&mut [0; PIECE])?;
        files.push(file);
    }
    ensure!(site.knfsd.serve(&[])? && !site.knfsd.serve(&[])?, "it was told otherwise than once");
    ensure!(!site.knfsd.exports.exists() && site.knfsd.served()?.is_empty(), "{:?}", site.knfsd.served());
    // For each time that `exportfs` ran more often than once a second the kernel holds it for a second. What is not in use is marked, and unmounted by nobody but its daemon.
    let mark = || rustix::mount::unmount(site.cache.mount(), rustix::mount::UnmountFlags::EXPIRE);
    let withdrawn = Instant::now();
    wait_for("that nothing holds the mount", || Ok((mark() == Err(rustix::io::Errno::AGAIN)).then_some(())))?;
    println!("the mount was held for {:.2} s", withdrawn.elapsed().as_secs_f64());
    site.cache.daemon.stop()?;
    ensure!(!site.cache.daemon.log().contains("the mount is in use"), "something holds the mount");
    let mut bytes = Vec::new();
    their_file.read_to_end(&mut bytes)?;
    ensure!(bytes == fs::read("/srv/theirs/file")?, "other bytes came from somebody else's export");
    fs::write(theirs.path("new"), b"theirs").context("writing to somebody else's export")?;
    // To readers it is gone, not silent.
    drop_caches()?;
    for mut file in files {
        file.seek(SeekFrom::Start(0))?;
        ensure!(file.read_to_end(&mut Vec::new()).is_err(), "it is read although it is not served");
    }
    site.cache.start_again(&site.lab)?;
    ensure!(site.knfsd.serve(&site.shares()?)?, "it was told nothing");
    let etab = fs::read_to_string(&site.knfsd.exported)?;
    ensure!(etab.contains("/srv/theirs\t198.18.0.0/24(rw,"), "somebody else's export is gone: {etab}");
    drop((their_file, theirs));
    site.server.run("exportfs -u 198.18.0.0/24:/srv/theirs").map(drop)
}

/// Clients read on by the handles that they have when another cache server takes over the address.
fn another_server_takes_over(site: &Site) -> Result<()> {
    let second = NfsServer::start_apart()?;
    let cache = icbd_tests::CacheServer::start(&site.lab, &site.master.url())?;
    let shares = site.shares_of(&cache)?;
    let there = knfsd();
    ensure!(second.within(|| Ok(there.serve(&shares)?))?, "it was told nothing");

    let mounted = VERSIONS.map(|version| site.mount(version, "lab")).into_iter().collect::<Result<Vec<_>>>()?;
    let disk = site.published("disk.raw")?;
    let mut readers = Vec::new();
    for mounted in &mounted {
        let mut file = File::open(mounted.path("1/disk.raw"))?;
        let mut start = vec![0; PIECE];
        file.read_exact(&mut start)?;
        let mut entries = fs::read_dir(mounted.path("1/many"))?;
        let names: Vec<_> = entries.by_ref().take(10).collect::<Result<_, _>>()?;
        readers.push((mounted, file, start, entries, names));
    }
    site.move_address(&second)?;
    // What was read ahead would tell nothing.
    drop_caches()?;
    for (mounted, mut file, mut bytes, entries, mut names) in readers {
        file.read_to_end(&mut bytes).with_context(|| format!("reading on, {mounted:?}"))?;
        ensure!(bytes == disk, "other bytes came, {mounted:?}");
        names.extend(entries.collect::<Result<Vec<_>, _>>().with_context(|| format!("listing on, {mounted:?}"))?);
        let names: BTreeSet<_> = names.into_iter().map(|entry| entry.file_name()).collect();
        ensure!(names == site.names()?, "other names came, {mounted:?}");
        ensure!(fs::read(mounted.path("1/boot/vmlinuz"))? == b"lab", "other bytes came, {mounted:?}");
    }
    let clients = second.within(|| Ok(there.clients()?))?;
    ensure!(clients == [CLIENT.parse::<std::net::IpAddr>()?], "{clients:?}, so nobody has read from the second server");
    drop(mounted);
    ensure!(second.within(|| Ok(there.serve(&[])?))?, "it was told nothing");
    Ok(())
}

/// What is declared at the daemon is served, and no more once it is not.
fn the_daemon_has_it_serve(site: &Site) -> Result<()> {
    site.knfsd.serve(&[])?;
    let added = site.cache.command(&["export", "add", "lab", "--nfs", "--clients", CLIENT])?.ok()?;
    ensure!(added.contains("by the kernel's NFS server") && added.contains("nfs://"), "{added}");
    for version in VERSIONS {
        let mounted = site.mount(version, "lab")?;
        ensure!(fs::read(mounted.path("1/disk.raw"))? == site.published("disk.raw")?, "other bytes came by {version}");
    }
    let is_removed = || Ok((site.cache.command(&["export", "remove", "lab", "--nfs"])?.code == 0).then_some(()));
    wait_for("that it can be removed", is_removed)?;
    let etab = fs::read_to_string(&site.knfsd.exported)?;
    ensure!(etab.lines().count() == 1 && etab.starts_with("/srv/theirs\t"), "{etab}");
    site.knfsd.serve(&site.shares()?)?;
    Ok(())
}

/// A server that does not run is told so, and keeps nothing from being withdrawn.
fn what_is_amiss_is_said(site: &Site) -> Result<()> {
    site.server.run("rpc.nfsd 0")?;
    let error = site.knfsd.serve(&site.shares()?).expect_err("nobody serves it").to_string();
    ensure!(error.contains("systemctl start nfs-server.service"), "{error}");
    ensure!(site.knfsd.clients().is_err() && site.knfsd.portals().is_err(), "nobody is asked");
    ensure!(site.knfsd.serve(&[])? && !site.knfsd.serve(&[])?, "it fails without need");
    // Nor does it serve anything of icbd when it runs again.
    let etab = fs::read_to_string(&site.knfsd.exported)?;
    ensure!(etab.lines().count() == 1 && etab.starts_with("/srv/theirs\t"), "{etab}");
    let program = PathBuf::from("/nowhere/exportfs");
    let mut elsewhere = knfsd();
    (elsewhere.program, elsewhere.control) = (program, "/nowhere".into());
    let error = elsewhere.serve(&site.shares()?).expect_err("nobody serves it").to_string();
    ensure!(error.contains("install the package nfs-kernel-server"), "{error}");
    Ok(())
}

impl Mounted {
    fn names(&self, below: &str) -> Result<BTreeSet<std::ffi::OsString>> {
        fs::read_dir(self.path(below))?.map(|entry| Ok(entry?.file_name())).collect()
    }
}
