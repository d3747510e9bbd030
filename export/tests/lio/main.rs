//! LIO serves files and a real mount to real initiators, in a machine whose kernel has it.

mod daemon;
mod initiator;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use icbd_export::{Clients, Lio, Offer, Plan, Server, ServerError, Step, Withdrawal};
use icbd_tests::{IscsiReader, Lab, MIB, fill, is_in_kernel_machine, run_in_kernel_machine, wait_for};
use initiator::{Initiator, PORTAL, list, script, tool};

const ROOT: &str = "/sys/kernel/config/target";
const EVERYBODY: &str = "0.0.0.0/0";
const OTHERS: &str = "iqn.2001-04.com.example:disk";
const CLIENT: &str = "iqn.2026-01.net.icbd:pc-7";

/// What LIO serves is what was declared, to whom it is for: versions to everybody, read-only, and clones to one name each, whose flushes
/// reach the file. What was killed halfway is put right, what somebody uses is not taken away, and what others serve stays. It serves
/// from a cold cache, and readers outlive its daemon.
#[test]
fn lio_serves_what_is_declared_and_readers_outlive_the_daemon() -> Result<()> {
    if !is_in_kernel_machine() {
        return run_in_kernel_machine("lio_serves_what_is_declared_and_readers_outlive_the_daemon");
    }
    let started = Instant::now();
    let done = |what: &str| println!("{what}: {:.1} s", started.elapsed().as_secs_f64());
    script("ip link set lo up; modprobe -a loop fuse; mount -t fusectl none /sys/fs/fuse/connections")?;
    let (lio, lab) = (Lio::default(), Lab::new()?);
    what_is_amiss_is_said(&lio, &lab).context("what is amiss")?;
    done("what is amiss");
    let initiator = Initiator::start()?;
    let before = others_serve(&lab)?;
    done("set up");
    everybody_reads_a_version(&lio, &lab, &initiator).context("a version")?;
    done("a version");
    a_clone_is_for_one_name(&lio, &lab, &initiator).context("a clone")?;
    done("a clone");
    what_was_killed_halfway_is_put_right(&lio, &lab).context("halfway")?;
    done("halfway");
    ensure!(others()? == before, "what others serve changed: {}, from {before}", others()?);
    daemon::the_daemon_has_it_serve(&lab, &initiator, done).context("the daemon")?;
    ensure!(others()? == before, "what others serve changed: {}, from {before}", others()?);
    done("all");
    Ok(())
}

fn offer(name: &str, disk: &Path, clients: &[&str]) -> Result<Offer> {
    let clients = clients.iter().map(|client| client.parse()).collect::<Result<_, _>>()?;
    Ok(Offer { name: format!("iqn.2026-01.net.icbd:{name}").parse()?, disk: disk.to_owned(), clients })
}

/// Has it serve this, and counts what was offered, changed, withdrawn, kept for its users, and what failed.
fn settle(lio: &Lio, wanted: &[Offer]) -> Result<[usize; 5]> {
    let mut plan = Plan::new(lio.offered()?, wanted, &BTreeSet::new());
    let kept = std::mem::take(&mut plan.kept_in_use).len();
    let done = plan.carry_out(lio);
    done.failed.iter().for_each(|(name, error)| println!("{name}: {error}"));
    Ok([done.offered.len(), done.changed.len(), done.withdrawn.len(), kept, done.failed.len()])
}

fn disk(lab: &Lab, name: &str) -> Result<PathBuf> {
    let path = lab.path(name);
    fill(&path, 1, 4 * MIB)?;
    Ok(path)
}

/// A target of others, set up by hand: all of it.
fn others_serve(lab: &Lab) -> Result<String> {
    let theirs = disk(lab, "theirs")?;
    script(&format!(
        "cd {ROOT}; mkdir -p core/fileio_0/theirs; printf 'fd_dev_name={},fd_dev_size=4194304' >core/fileio_0/theirs/control; \
         echo 1 >core/fileio_0/theirs/enable; mkdir -p iscsi/{OTHERS}/tpgt_1/lun/lun_0 iscsi/{OTHERS}/tpgt_1/np/0.0.0.0:3260; \
         ln -s {ROOT}/core/fileio_0/theirs iscsi/{OTHERS}/tpgt_1/lun/lun_0/theirs; mkdir iscsi/{OTHERS}/tpgt_1/acls/{OTHERS}; \
         echo 1 >iscsi/{OTHERS}/tpgt_1/enable",
        theirs.display()
    ))?;
    others()
}

/// What is there of others, with all that can be read of it and does not count.
fn others() -> Result<String> {
    script(&format!(
        "cd {ROOT}; find core/fileio_0 iscsi/{OTHERS} -path '*statistics*' -prune -o -print | sort; \
         find core/fileio_0 iscsi/{OTHERS} -path '*statistics*' -prune -o -type f -perm -400 -print | sort | \
         xargs grep -H '' 2>&1 || true"
    ))
}

/// Nothing of icbd's is left but perhaps an empty folder for it, nor any loop device.
fn is_clear() -> bool {
    let root = Path::new(ROOT);
    let ours = |path: &PathBuf| path.to_string_lossy().contains("net.icbd");
    let there = [list(&root.join("iscsi")), list(&root.join("core/iblock_2026"))].concat();
    !there.iter().any(ours) && loops().is_empty()
}

/// The loop devices that are files.
fn loops() -> Vec<PathBuf> {
    let mut loops = list("/sys/block".as_ref());
    loops.retain(|device| device.join("loop/backing_file").exists());
    loops
}

fn what_is_amiss_is_said(lio: &Lio, lab: &Lab) -> Result<()> {
    let one = disk(lab, "amiss")?;
    let everybody = offer("lab.1", &one, &[EVERYBODY])?;
    let error = lio.check(&everybody).expect_err("it is not loaded").to_string();
    ensure!(error.contains("modprobe") && error.contains("mount -t configfs"), "{error}");
    script("modprobe target_core_mod; mountpoint -q /sys/kernel/config || mount -t configfs none /sys/kernel/config")?;
    ensure!(lio.is_there() && lio.offered()?.is_empty(), "{:?}", lio.offered());
    lio.check(&everybody)?;
    let error = lio.check(&offer("lab.1", &one, &["10.1.2.0/24"])?).expect_err("it knows networks").to_string();
    ensure!(error.contains("10.1.2.0/24") && error.contains("--clone"), "{error}");
    let listener = std::net::TcpListener::bind("127.0.0.1:3260")?;
    let error = lio.offer(&everybody).expect_err("two listen at one port").to_string();
    ensure!(error.contains("0.0.0.0:3260") && error.contains("systemctl stop tgt"), "{error}");
    drop(listener);
    let missing = offer("lab.4", &lab.path("nowhere"), &[EVERYBODY])?;
    let error = lio.offer(&missing).expect_err("a disk that is not there is served").to_string();
    ensure!(error.contains("nowhere"), "{error}");
    ensure!(settle(lio, &[])? == [0, 0, 1, 0, 0] && is_clear(), "something is left of it");
    Ok(())
}

fn everybody_reads_a_version(lio: &Lio, lab: &Lab, initiator: &Initiator) -> Result<()> {
    let one = disk(lab, "one")?;
    let wanted = [offer("lab.1", &one, &[EVERYBODY])?];
    ensure!(settle(lio, &wanted)? == [1, 0, 0, 0, 0], "it is offered");
    ensure!(settle(lio, &wanted)? == [0; 5], "nothing is left to do");
    let (name, offered) = (wanted[0].name.to_string(), lio.offered()?);
    ensure!(offered.len() == 1 && offered[0].is_read_only && offered[0].disk.as_ref() == Some(&one), "{offered:?}");
    ensure!(lio.portals()? == ["0.0.0.0:3260".parse()?], "{:?}", lio.portals());
    let url = format!("iscsi://{PORTAL}/{name}/1");
    let inquiry = tool("iscsi-inq", &[&url])?.ok()?;
    ensure!(inquiry.contains("Vendor:icbd") && inquiry.contains("Product:version"), "{inquiry}");

    let read = initiator.log_in("iqn.2001-04.com.example:pc-1", &name)?;
    ensure!(read.read()? == fs::read(&one)?, "other bytes came");
    ensure!(read.told("ro")? == "1", "it does not say that nobody can write");
    script(&format!("blockdev --setrw {}", read.path.display()))?;
    let write = || -> Result<()> {
        let disk = File::options().write(true).open(&read.path)?;
        disk.write_all_at(&[7; 4096], 0)?;
        Ok(disk.sync_all()?)
    };
    let before = fs::read(&one)?;
    ensure!(write().is_err() && fs::read(&one)? == before, "it was written to");
    let [session] = &lio.offered()?[0].sessions[..] else { anyhow::bail!("{:?}", lio.offered()) };
    ensure!(session.initiator == "iqn.2001-04.com.example:pc-1", "{session:?}");
    ensure!(session.addresses == ["127.0.0.1".parse::<std::net::IpAddr>()?], "{session:?}");

    // Somebody uses it.
    ensure!(settle(lio, &[])? == [0, 0, 0, 1, 0], "it is in use");
    let refused = lio.withdraw(&wanted[0].name, Withdrawal::Unused);
    ensure!(matches!(&refused, Err(ServerError::Refused { said, .. }) if said.contains("pc-1")), "{refused:?}");
    ensure!(settle(lio, &wanted)? == [0; 5] && read.read()? == before, "the refusal changed something");
    // Narrower than it can be: nobody new, and who is there stays.
    let narrow = offer("lab.1", &one, &["10.1.2.0/24"])?;
    ensure!(settle(lio, &[narrow])? == [0, 0, 0, 0, 1], "it knows networks");
    ensure!(tool("iscsi-inq", &[&url])?.code != 0, "somebody new was let in");
    ensure!(read.read()? == before, "who was there was logged out");
    ensure!(settle(lio, &wanted)? == [0, 1, 0, 0, 0], "everybody again");
    read.log_out()?;

    let mut reader = IscsiReader::start(&url)?;
    wait_for("a session", || Ok((lio.offered()?[0].sessions.len() == 1).then_some(())))?;
    ensure!(reader.goes_on()?, "it does not read");
    lio.withdraw(&wanted[0].name, Withdrawal::Forced)?;
    wait_for("that nothing is left", || Ok(is_clear().then_some(())))?;
    Ok(())
}

fn a_clone_is_for_one_name(lio: &Lio, lab: &Lab, initiator: &Initiator) -> Result<()> {
    let one = disk(lab, "clone")?;
    let wanted = [offer("lab.2.pc-7", &one, &[])?];
    ensure!(settle(lio, &wanted)? == [1, 0, 0, 0, 0] && settle(lio, &wanted)? == [0; 5], "it is offered");
    let (name, offered) = (wanted[0].name.to_string(), lio.offered()?);
    ensure!(!offered[0].is_read_only && offered[0].clients == Clients::These(vec![]), "{offered:?}");
    let url = format!("iscsi://{PORTAL}/{name}/1");
    for stranger in ["iqn.2026-01.net.icbd:pc-8", "iqn.2001-04.com.example:pc-7"] {
        ensure!(tool("iscsi-inq", &["-i", stranger, &url])?.code != 0, "{stranger} was let in");
    }
    let inquiry = tool("iscsi-inq", &["-i", CLIENT, &url])?.ok()?;
    ensure!(inquiry.contains("Vendor:icbd") && inquiry.contains("Product:clone"), "{inquiry}");
    let serial = tool("iscsi-inq", &["-i", CLIENT, "-e", "1", "-c", "128", &url])?.ok()?;

    let disk = initiator.log_in(CLIENT, &name)?;
    ensure!(disk.told("ro")? == "0" && disk.told("queue/write_cache")? == "write back", "it keeps nothing back");
    let [session] = &lio.offered()?[0].sessions[..] else { anyhow::bail!("{:?}", lio.offered()) };
    ensure!(
        session.initiator == CLIENT && session.addresses == ["127.0.0.1".parse::<std::net::IpAddr>()?],
        "{session:?}"
    );
    let [device] = &loops()[..] else { anyhow::bail!("{:?}", loops()) };
    let flushes = || -> Result<u64> {
        let stat = fs::read_to_string(device.join("stat"))?;
        Ok(stat.split_whitespace().nth(15).context("no flushes in the statistics")?.parse()?)
    };
    let before = flushes()?;
    let mut file = File::options().write(true).open(&disk.path)?;
    file.write_all(&[7; 8192])?;
    file.sync_all()?;
    // For a loop device a flush is an fsync of its file.
    ensure!(flushes()? > before, "a flush did not reach the file");
    ensure!(fs::read(&one)?[..8192] == [7; 8192], "what was written did not reach the file");
    // What is discarded goes.
    script(&format!("blkdiscard --offset {} --length {} {}", 1 << 20, 1 << 20, disk.path.display()))?;
    drop(file);
    ensure!(fs::read(&one)?[1 << 20..2 << 20].iter().all(|byte| *byte == 0), "what was discarded is still there");

    ensure!(matches!(lio.withdraw(&wanted[0].name, Withdrawal::Unused), Err(ServerError::Refused { .. })), "it went");
    // Somebody lets another one in by hand.
    script(&format!("mkdir {ROOT}/iscsi/{name}/tpgt_1/acls/{OTHERS}"))?;
    ensure!(lio.offered()?[0].clients == Clients::Others, "{:?}", lio.offered());
    ensure!(settle(lio, &wanted)? == [0, 1, 0, 0, 0] && settle(lio, &wanted)? == [0; 5], "that is mended");
    ensure!(lio.offered()?[0].sessions.len() == 1, "who is meant was logged out");
    let at_first = fs::read(&one)?;
    lio.withdraw(&wanted[0].name, Withdrawal::Forced)?;
    ensure!(is_clear() && fs::read(&one)? == at_first, "something is left, or something went");
    lio.offer(&wanted[0])?;
    ensure!(disk.read()? == at_first, "whoever was logged out does not come back to the same");
    disk.log_out()?;
    ensure!(serial == tool("iscsi-inq", &["-i", CLIENT, "-e", "1", "-c", "128", &url])?.ok()?, "another serial");
    // Whoever asked for its serial may be going still.
    wait_for("that nothing is left", || Ok((settle(lio, &[])?[4] == 0 && is_clear()).then_some(())))
}

/// Cut after every step, there and back: what is wanted becomes whole, and what is not goes.
fn what_was_killed_halfway_is_put_right(lio: &Lio, lab: &Lab) -> Result<()> {
    let one = disk(lab, "halfway")?;
    for offer in [offer("lab.3", &one, &[EVERYBODY])?, offer("lab.3.pc-7", &one, &[])?] {
        let to_offer = || lio.to_offer(&offer.name, &offer.disk);
        let wanted = std::slice::from_ref(&offer);
        // A version begins as a clone does.
        let from = if offer.name.client.is_none() { to_offer()?.len() - 7 } else { 0 };
        for cut in from..=to_offer()?.len() {
            let begin = || to_offer()?.iter().take(cut).try_for_each(Step::take);
            begin()?;
            ensure!(settle(lio, wanted)?[4] == 0, "it does not come after {cut} steps");
            ensure!(to_offer()?.iter().all(Step::is_done), "not whole after {cut} steps");
            // Less of it is left each time.
            lio.to_withdraw(&offer.name)?.iter().take(cut).try_for_each(Step::take)?;
            if cut % 3 == 0 {
                ensure!(settle(lio, wanted)?[4] == 0, "it does not come back after {cut} steps of going");
                ensure!(to_offer()?.iter().all(Step::is_done), "not whole after {cut} steps of going");
            }
            ensure!(settle(lio, &[])?[3..] == [0, 0] && is_clear(), "something is left after {cut} steps of going");
            begin()?;
            ensure!(settle(lio, &[])?[3..] == [0, 0] && is_clear(), "something is left after {cut} steps");
        }
    }
    Ok(())
}
