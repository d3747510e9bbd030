//! A real tgtd: it serves what is wanted of it, whatever was there before, and what others have there stays.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use icbd_export::{Clients, Offer, Plan, Server, ServerError, Tgt, Withdrawal};
use icbd_tests::{IscsiReader, Lab, MIB, Tgtd, fill, run_bounded, wait_for};

const OTHERS: &str = "iqn.2001-04.com.example:disk";

fn adm(server: &Tgtd) -> Tgt {
    Tgt { socket: Some(server.socket().as_os_str().to_owned()) }
}

fn disk(lab: &Lab, name: &str) -> Result<PathBuf> {
    let path = lab.path(name);
    fill(&path, 1, 4 * MIB)?;
    Ok(path)
}

fn offer(name: &str, disk: PathBuf, clients: &[&str]) -> Result<Offer> {
    let clients = clients.iter().map(|client| client.parse()).collect::<Result<_, _>>()?;
    Ok(Offer { name: format!("iqn.2026-01.net.icbd:{name}").parse()?, disk, clients })
}

/// Has it serve this, and counts what was offered, changed, withdrawn, kept for its users, and what failed.
fn settle(tgt: &Tgt, wanted: &[Offer]) -> Result<[usize; 5]> {
    let mut plan = Plan::new(tgt.offered()?, wanted, &BTreeSet::new());
    let kept = std::mem::take(&mut plan.kept_in_use).len();
    let done = plan.carry_out(tgt);
    Ok([done.offered.len(), done.changed.len(), done.withdrawn.len(), kept, done.failed.len()])
}

/// What others did by hand, as its own word for it.
fn others(server: &Tgtd) -> Result<String> {
    let all = server.adm(&["--op", "show", "--mode", "target"])?.ok()?;
    let at = all.find(OTHERS).context("the target of others is gone")?;
    Ok(all[at..].split("\nTarget ").next().unwrap_or_default().to_owned())
}

#[test]
fn what_is_wanted_is_served_and_nothing_of_others_is_touched() -> Result<()> {
    let lab = Lab::new()?;
    let (server, theirs) = (Tgtd::start(&lab)?, disk(&lab, "theirs")?);
    let theirs = theirs.to_str().context("a path of text")?;
    for args in [
        &["--op", "new", "--mode", "target", "--tid", "1", "-T", OTHERS][..],
        &["--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "-b", theirs],
        &["--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL"],
    ] {
        server.adm(args)?.ok()?;
    }
    let (before, tgt, local) = (others(&server)?, adm(&server), "127.0.0.0/8");
    let (one, two) = (disk(&lab, "one")?, disk(&lab, "two")?);
    let wanted = [offer("lab.1", one.clone(), &["127.0.0.1/32"])?, offer("lab.2.pc-7", two.clone(), &[])?];
    ensure!(settle(&tgt, &wanted)? == [2, 0, 0, 0, 0], "both are offered");
    ensure!(settle(&tgt, &wanted)? == [0; 5], "nothing is left to do");
    let offered = tgt.offered()?;
    ensure!(offered.len() == 2 && offered[0].is_read_only && !offered[1].is_read_only, "{offered:?}");

    // A client's own disk is served to it, by its name, and to nobody else.
    let read = |target: &Offer, initiator: &str| {
        let mut read = Command::new("qemu-io");
        let options = format!(
            "driver=iscsi,transport=tcp,portal={},target={},lun=1,initiator-name={initiator}",
            server.address(),
            target.name
        );
        read.args(["--image-opts", &options, "-c", "read 0 4096"]);
        run_bounded(read, std::time::Duration::from_secs(60))
    };
    read(&wanted[1], "iqn.2026-01.net.icbd:pc-7")?.ok()?;
    ensure!(read(&wanted[1], "iqn.2026-01.net.icbd:pc-8")?.code != 0, "somebody else was let in");

    // What can be read, and not written, is the disk.
    let url = format!("iscsi://{}/{}/1", server.address(), wanted[0].name);
    let mut copy = Command::new("qemu-img");
    copy.args(["convert", "-f", "raw", "-O", "raw", &url]).arg(lab.path("copy"));
    run_bounded(copy, std::time::Duration::from_secs(60))?.ok()?;
    ensure!(fs::read(lab.path("copy"))? == fs::read(&one)?, "other bytes came");
    let mut write = Command::new("qemu-io");
    write.args(["-f", "raw", "-c", "write 0 4096", &url]);
    let written = run_bounded(write, std::time::Duration::from_secs(60))?;
    ensure!(written.code != 0 && fs::read(lab.path("copy"))? == fs::read(&one)?, "it was written to: {written:?}");

    // Other clients, another disk behind a name, one that is wanted no more, and one that was not put together to its end.
    let wanted = [offer("lab.1", one.clone(), &["10.1.2.0/24"])?, offer("lab.3", two, &[local])?];
    server.adm(&["--op", "new", "--mode", "target", "--tid", "9", "-T", &wanted[1].name.to_string()])?.ok()?;
    ensure!(settle(&tgt, &wanted)? == [0, 2, 1, 0, 0], "all is as it should be");
    ensure!(settle(&tgt, &wanted)? == [0; 5], "nothing is left to do");
    ensure!(tgt.offered()?[0].clients == Clients::These(wanted[0].clients.clone()), "{:?}", tgt.offered()?);
    let missing = offer("lab.4", lab.path("nowhere"), &[local])?;
    let wanted = [wanted[0].clone(), wanted[1].clone(), missing];
    let outcome = Plan::new(tgt.offered()?, &wanted, &BTreeSet::new()).carry_out(&tgt);
    let (_, error) = outcome.failed.first().context("a disk that is not there is served")?;
    ensure!(error.to_string().contains("nowhere"), "{error}");
    ensure!(settle(&tgt, &[])? == [0, 0, 3, 0, 0], "what is left of it goes, too");
    ensure!(others(&server)? == before, "what others have there changed");
    Ok(())
}

#[test]
fn what_somebody_uses_is_not_taken_away() -> Result<()> {
    let lab = Lab::new()?;
    let (server, one) = (Tgtd::start(&lab)?, disk(&lab, "one")?);
    let (tgt, wanted) = (adm(&server), [offer("lab.1", one, &["127.0.0.0/8"])?]);
    settle(&tgt, &wanted)?;
    ensure!(tgt.portals()? == [server.address()], "{:?}", tgt.portals());
    let reader = IscsiReader::start(&format!("iscsi://{}/{}/1", server.address(), wanted[0].name))?;
    let sessions = || Ok::<_, anyhow::Error>(tgt.offered()?.first().map_or(0, |offered| offered.sessions.len()));
    wait_for("a session", || Ok((sessions()? == 1).then_some(())))?;
    let plan = Plan::new(tgt.offered()?, &[], &BTreeSet::new());
    let [used] = &plan.kept_in_use[..] else { anyhow::bail!("{plan:?}") };
    ensure!(used.sessions[0].addresses == [server.address().ip()], "{used:?}");
    let elsewhere = [offer("lab.1", disk(&lab, "two")?, &["127.0.0.0/8"])?];
    ensure!(settle(&tgt, &elsewhere)? == [0, 0, 0, 1, 0], "its disk is another one");
    ensure!(
        matches!(tgt.withdraw(&wanted[0].name, Withdrawal::Unused), Err(ServerError::Refused { .. })),
        "it was taken away"
    );
    // What it was opened from is gone: better a moment without than errors for ever.
    let renewed = Plan::new(tgt.offered()?, &wanted, &BTreeSet::from([wanted[0].name.clone()])).carry_out(&tgt);
    ensure!(renewed.changed == [wanted[0].name.clone()], "{renewed:?}");
    wait_for("the session to come again", || Ok((sessions()? == 1).then_some(())))?;
    drop(reader);
    wait_for("the session's end", || Ok((sessions()? == 0).then_some(())))?;
    ensure!(settle(&tgt, &[])? == [0, 0, 1, 0, 0], "nobody uses it");
    Ok(())
}

#[test]
fn a_server_that_is_not_there_is_said() {
    let nobody = Tgt { socket: Some("/nowhere".into()) };
    let error = nobody.offered().expect_err("somebody answers");
    assert!(matches!(error, ServerError::NotRunning { .. }), "{error:?}");
    assert!(error.to_string().contains("systemctl start tgt"), "{error}");
}
