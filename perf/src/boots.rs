//! A Debian machine boots to its login prompt by each way that a version is exported, beside a boot from a local disk.

use anyhow::{Context, Result};
use icbd_tests::{
    BOOT_DEADLINE, BootTarget, CacheServer, CacheSettings, Ganesha, Lab, MIB, Master, Tgtd, Vm, debian_image,
    disk_argument,
};

use crate::Scale;
use crate::stats::{Samples, ratio_of_rounds};

const IMAGE: &str = "debian-lab";
/// A boot takes half a minute.
const ROUNDS_MAX: usize = 3;
const LOOPBACK: &str = "127.0.0.0/8";

#[derive(Debug, Clone, Copy)]
enum Way {
    Nfs,
    Iscsi,
    Clone,
    Http,
}

const WAYS: [(Way, &str); 4] = [
    (Way::Nfs, "NFS, by nfs-ganesha"),
    (Way::Iscsi, "iSCSI, read-only, by tgt"),
    (Way::Clone, "iSCSI, a clone, by tgt"),
    (Way::Http, "HTTP, by icbd"),
];

/// Seconds to the prompt, and mebibytes from the master, of a boot from an empty cache and of the next one.
#[derive(Debug, Default)]
struct Boots {
    seconds: [Samples; 2],
    fetched: [Samples; 2],
}

pub(crate) fn run(scale: &Scale) -> Result<String> {
    let (lab, image) = (Lab::new()?, debian_image()?.join("v1"));
    let repo = lab.path("repo");
    Master::publish_offline(&repo, IMAGE, &image, &["--deploy"])?;
    let master = Master::start(&lab, &repo)?;
    let local_disk = disk_argument(&image.join("disk.raw"));
    let mut local = Samples::default();
    let mut ways: Vec<Boots> = WAYS.iter().map(|_| Boots::default()).collect();
    for _ in 0..scale.rounds.min(ROUNDS_MAX) {
        local.push(login(Vm::boot(&lab, &local_disk)?)?);
        for ((way, _), boots) in WAYS.iter().zip(&mut ways) {
            boot(*way, &master, boots)?;
        }
    }
    let mut table = format!(
        "### Boots of a Debian machine\n\nFrom QEMU's start to `login:`, in emulation, on one machine with all the rest; over \
         loopback, NFS over a pair of virtual interfaces. The ratios are to a boot from the same file on a local disk, {:.1} s \
         (medians of {} rounds).\n\n| way | empty cache | ratio | from the master | again | ratio | from the master |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n",
        local.median(),
        local.len()
    );
    for ((_, name), boots) in WAYS.iter().zip(&ways) {
        let cells = boots.seconds.iter().zip(&boots.fetched).map(|(seconds, fetched)| {
            format!("{:.1} s | {:.2} | {:.1} MiB", seconds.median(), ratio_of_rounds(seconds, &local), fetched.median())
        });
        table.push_str(&format!("| {name} | {} |\n", cells.collect::<Vec<_>>().join(" | ")));
    }
    Ok(table)
}

fn login(mut machine: Vm) -> Result<f64> {
    Ok(machine.wait_for("login:", BOOT_DEADLINE)?.as_secs_f64())
}

/// Two boots, the first from a cache that has nothing.
fn boot(way: Way, master: &Master, boots: &mut Boots) -> Result<()> {
    let lab = Lab::new()?;
    let (mut settings, mut ganesha, mut tgtd) = (CacheSettings::default(), None, None);
    match way {
        // It is to see what is mounted after its start.
        Way::Nfs => settings = ganesha.insert(Ganesha::start(&lab, "")?).cache_settings(),
        Way::Iscsi | Way::Clone => {
            settings.env = vec![("TGT_IPC_SOCKET", tgtd.insert(Tgtd::start(&lab)?).socket().to_owned())];
        }
        Way::Http => {}
    }
    settings.config += "[serve]\nlisten = [\"127.0.0.1:0\"]\n";
    let cache = CacheServer::start_with(&lab, &[&master.url()], &settings)?;
    let add = |how: &[&str]| cache.command(&[&["export", "add", IMAGE], how].concat());
    let start = || match way {
        Way::Nfs => {
            let ganesha = ganesha.as_ref().context("no Ganesha")?;
            Vm::boot(&lab, &format!("nfs://{}/icbd/{IMAGE}/1/disk.raw", ganesha.address()))
        }
        Way::Iscsi => {
            let portal = tgtd.as_ref().context("no tgtd")?.address();
            Vm::boot(&lab, &format!("iscsi://{portal}/iqn.2026-01.net.icbd:{IMAGE}.1/1"))
        }
        Way::Clone => Vm::boot_writable(&lab, &BootTarget::ask(&cache, IMAGE, "pc-1")?.options()),
        Way::Http => {
            let status = cache.status()?;
            let listen = status["listen"][0].as_str().context("it listens nowhere")?;
            Vm::boot(&lab, &format!("http://{listen}/files/{IMAGE}/1/disk.raw"))
        }
    };
    match way {
        Way::Nfs => {
            let ganesha = ganesha.as_ref().context("no Ganesha")?;
            let clients = ganesha.client().to_string();
            // Refused, but the file is there that Ganesha is to bring in.
            add(&["--nfs", "--clients", &clients])?;
            ganesha.set(&ganesha.include())?;
            add(&["--nfs", "--clients", &clients])?.ok()?;
        }
        Way::Iscsi => drop(add(&["--iscsi", "--clients", LOOPBACK])?.ok()?),
        Way::Clone => drop(add(&["--iscsi", "--clone", "--clients", LOOPBACK])?.ok()?),
        Way::Http => drop(add(&["--http", "--clients", LOOPBACK])?.ok()?),
    }
    for at in 0..2 {
        let before = fetched(&cache)?;
        boots.seconds[at].push(login(start()?)?);
        cache.wait_idle()?;
        boots.fetched[at].push((fetched(&cache)? - before) as f64 / MIB as f64);
    }
    Ok(())
}

fn fetched(cache: &CacheServer) -> Result<u64> {
    cache.status()?["fetched_bytes"].as_u64().context("no fetched_bytes")
}
