//! A diskless machine boots by the network, phase by phase, beside a boot from a local disk.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use icbd_tests::{
    BOOT_DEADLINE, CacheServer, CacheSettings, Dnsmasq, FileSystem, Ganesha, LAN, Lab, Lan, MIB, Master, SERVER, Tgtd,
    Vm, Volume, disk_argument, netboot_image, wait_for,
};
use serde_json::Value;

use crate::Scale;
use crate::stats::{Samples, ratio_of_rounds};

/// A boot takes half a minute, and there are dozens.
const ROUNDS_MAX: usize = 3;
const MEMORY_MB: u32 = 768;
const STORE_BYTES: u64 = 6 << 30;
/// Of the line between workstation and switch.
const RATES: [(&str, &str); 2] = [("1gbit", "1 Gbit/s"), ("100mbit", "100 Mbit/s")];
/// What the cache server has: nothing, what the boot before read, all of it as a snapshot.
const STATES: [&str; 3] = ["empty cache", "again", "sealed"];
/// The stages of a boot that its own programs tell, and what they are called here.
const STAGES: [&str; 3] = ["script", "root", "up"];
const WAYS: [Way; 3] = [
    Way { name: "root by NFS", image: "tree", export: &["--nfs"], has_package: true },
    Way { name: "root on a clone, by iSCSI", image: "disk", export: &["--iscsi", "--clone"], has_package: true },
    Way { name: "`sanboot` of a clone", image: "plain", export: &["--iscsi", "--clone"], has_package: false },
];

struct Way {
    name: &'static str,
    image: &'static str,
    export: &'static [&'static str],
    has_package: bool,
}

/// Boots of one way, line and state of the cache.
#[derive(Debug, Default)]
struct Boots {
    login: Samples,
    fetched: Samples,
    stages: [Samples; STAGES.len()],
}

/// Boots over a line.
#[derive(Debug, Default)]
struct Line {
    ways: [[Boots; STATES.len()]; WAYS.len()],
    others: Samples,
}

pub(crate) fn run(scale: &Scale) -> Result<String> {
    let rounds = scale.rounds.min(ROUNDS_MAX);
    // In a network of its own, which ends with the thread.
    let measured = std::thread::spawn(move || measure(rounds));
    measured.join().map_err(|_| anyhow::anyhow!("the machines could not be measured"))?
}

fn measure(rounds: usize) -> Result<String> {
    let lan = Lan::new()?;
    // With it, others' dnsmasq can say that there is a router of IPv6, for which iPXE waits.
    let address = Command::new("ip").args(["address", "add", "fd88::1/64", "dev", "lan", "nodad"]).status();
    ensure!(address.context("starting ip; install the package iproute2")?.success(), "no address of IPv6");
    let (card, mac) = lan.card(17)?;
    let (lab, image) = (Lab::new()?, netboot_image()?);
    let repo = lab.path("repo");
    for (name, path) in [("tree", "tree"), ("disk", "disk.raw"), ("plain", "disk.raw")] {
        Master::publish_offline(&repo, name, &image.join(path), &["--deploy"])?;
    }
    let master = Master::start(&lab, &repo)?;
    // Each cache server ends when its boots have been measured, and is then asked for what they read.
    master.daemon.allow_log("a boot profile that was offered is ignored");
    for way in WAYS.iter().filter(|way| way.has_package) {
        let cmdline = ["--cmdline", "console=ttyS0 quiet"];
        master.command(&[&["image", "boot-package", way.image], &cmdline[..]].concat())?.ok()?;
        master.command(&["image", "deploy", &format!("{}@2", way.image)])?.ok()?;
    }
    let local_disk = local_disk(&lab, &image.join("disk.raw"))?;
    let mut local = Samples::default();
    let mut lines: [Line; RATES.len()] = Default::default();
    for _ in 0..rounds {
        local.push(login("from its own disk", Vm::boot(&lab, &local_disk)?)?);
        for ((rate, _), line) in RATES.iter().zip(&mut lines) {
            limit(&card, rate)?;
            line.others.push(boot_by_others((&card, &mac), &image.join("disk.raw"))?);
            for (way, boots) in WAYS.iter().zip(&mut line.ways) {
                boot(&lan, (&card, &mac), &master, way, boots)?;
            }
        }
    }
    Ok(table(&local, &lines))
}

/// The same disk as a plain file, by servers that know nothing of icbd.
fn boot_by_others((card, mac): (&str, &str), disk: &Path) -> Result<f64> {
    let lab = Lab::new()?;
    // What one boot writes is not what the next one finds.
    let copy = copy(disk, &lab)?;
    let tgtd = Tgtd::start_on(&lab, SERVER)?;
    let url = tgtd.serve_plain(&copy, None, ["--initiator-address", "ALL"])?;
    let target = url.rsplit('/').nth(1).context("a target in its URL")?;
    let root = format!("--dhcp-option-force=17,iscsi:{SERVER}:::1:{target}");
    // iPXE is spared the waiting for others' words here as well.
    let spared = ["--dhcp-match=set:ipxe,175", "--dhcp-option=tag:ipxe,encap:175,176,1b", "--enable-ra"];
    let gives = ["--interface=lan", "--dhcp-range=10.88.0.100,10.88.0.150", "--dhcp-range=::,constructor:lan,ra-only"];
    let _dnsmasq = Dnsmasq::start(&lab, None, &[&gives[..], &spared, &[&root]].concat())?;
    login("by tgtd alone", Vm::boot_network(&lab, card, mac, MEMORY_MB)?)
}

fn copy(disk: &Path, lab: &Lab) -> Result<PathBuf> {
    let copy = lab.unique("copy.raw");
    let done = Command::new("cp").args(["--sparse=always", "--reflink=auto"]).arg(disk).arg(&copy).status()?;
    ensure!(done.success(), "{} cannot be copied", disk.display());
    Ok(copy)
}

/// The same disk, whose boot loader does not have the kernel look for it by iSCSI.
fn local_disk(lab: &Lab, disk: &Path) -> Result<String> {
    const BY_ISCSI: &[u8] = b" quiet ISCSI_AUTO=true\n";
    const CHUNK: usize = 1 << 20;
    let copy = copy(disk, lab)?;
    let file = File::options().read(true).write(true).open(&copy)?;
    let (mut chunk, mut at, mut found) = (vec![0; CHUNK], 0, 0);
    while let read @ 1.. = file.read_at(&mut chunk, at)? {
        for place in (0..read.saturating_sub(BY_ISCSI.len())).filter(|place| chunk[*place..].starts_with(BY_ISCSI)) {
            let mut spaces = vec![b' '; BY_ISCSI.len() - 1];
            spaces[..6].copy_from_slice(b" quiet");
            file.write_all_at(&spaces, at + place as u64)?;
            found += 1;
        }
        at += CHUNK as u64;
    }
    // The configuration of a boot loader lies in one block.
    ensure!(found == 1, "the boot loader's configuration was found {found} times");
    Ok(disk_argument(&copy))
}

/// What the switch sends to the workstation.
fn limit(card: &str, rate: &str) -> Result<()> {
    let set = Command::new("tc")
        .args(["qdisc", "replace", "dev", card, "root", "tbf", "rate", rate, "burst", "256kb", "latency", "100ms"])
        .status();
    ensure!(set.context("starting tc; install the package iproute2")?.success(), "{card} cannot be limited");
    Ok(())
}

fn login(what: &str, mut machine: Vm) -> Result<f64> {
    let seconds = machine.wait_for("login:", BOOT_DEADLINE)?.as_secs_f64();
    eprintln!("netboot: {what}: {seconds:.1} s");
    Ok(seconds)
}

/// A boot from each state of a cache that begins with nothing.
fn boot(lan: &Lan, (card, mac): (&str, &str), master: &Master, way: &Way, boots: &mut [Boots]) -> Result<()> {
    let lab = Lab::new()?;
    // It is to see what is mounted after its start.
    let ganesha = way.export.contains(&"--nfs").then(|| Ganesha::start_in(&lab, "", lan)).transpose()?;
    let tgtd = Tgtd::start_on(&lab, SERVER)?;
    let store = Volume::new(&lab, FileSystem::Btrfs, STORE_BYTES)?;
    let mut settings = ganesha.as_ref().map_or_else(CacheSettings::default, Ganesha::cache_settings);
    settings.store = Some(store.path().join("store"));
    settings.env.push(("TGT_IPC_SOCKET", tgtd.socket().to_owned()));
    settings.config += &format!(
        "[serve]\nlisten = [\"{SERVER}:7071\"]\n[[network]]\ninterface = \"lan\"\ndhcp = \"full\"\n\
         pool = \"10.88.0.100-10.88.0.150\"\n[netboot]\ndefault = \"{}\"\nmenu_timeout = \"1s\"\n",
        way.image
    );
    let cache = CacheServer::start_with(&lab, &[&master.url()], &settings)?;
    let list = lab.path("clients.csv");
    std::fs::write(&list, format!("name,mac\npc-17,{mac}\n"))?;
    cache.command(&["client", "import", list.to_str().context("a path of text")?])?.ok()?;
    let export = || cache.command(&[&["export", "add", way.image, "--clients", LAN], way.export].concat());
    if let Some(ganesha) = &ganesha {
        // Refused, but the file is there that Ganesha is to bring in.
        export()?;
        ganesha.set(&ganesha.include())?;
    }
    export()?.ok()?;
    cache.command(&["netboot", "enable"])?.ok()?;
    for (state, boots) in STATES.iter().zip(boots) {
        if *state == "sealed" {
            let version = format!("{}@{}", way.image, if way.has_package { 2 } else { 1 });
            cache.prefetch_all(&version)?;
            cache.command(&["image", "seal", &version])?.ok()?;
        }
        let before = fetched(&cache)?;
        let mut machine = Vm::boot_network(&lab, card, mac, MEMORY_MB)?;
        let login = machine.wait_for("login:", BOOT_DEADLINE)?.as_secs_f64();
        boots.login.push(login);
        let stages = stages(&cache, mac, way)?;
        for (stage, samples) in STAGES.iter().zip(&mut boots.stages) {
            if let Some(seconds) = stages.iter().find(|(name, _)| name == stage).map(|(_, seconds)| *seconds) {
                samples.push(seconds);
            }
        }
        drop(machine);
        cache.wait_idle()?;
        let fetched = (fetched(&cache)? - before) as f64 / MIB as f64;
        eprintln!("netboot: {} {state}: {login:.1} s, {fetched:.1} MiB, {stages:?}", way.name);
        boots.fetched.push(fetched);
        // The next boot is to have its disk reset at once.
        wait_for("that nobody is logged in", || {
            let clones: Value = serde_json::from_str(&cache.command(&["clone", "list", "--json"])?.ok()?)?;
            let is_free = |clone: &Value| clone["sessions"].as_array().is_some_and(Vec::is_empty);
            Ok(clones["clones"].as_array().is_some_and(|clones| clones.iter().all(is_free)).then_some(()))
        })?;
    }
    Ok(())
}

/// When each stage of the last boot was reached, in seconds from its first word on.
fn stages(cache: &CacheServer, mac: &str, way: &Way) -> Result<Vec<(String, f64)>> {
    let last = || -> Result<Value> {
        let boots: Value = serde_json::from_str(&cache.command(&["client", "boots", mac, "--json"])?.ok()?)?;
        Ok(boots[0]["stages"].clone())
    };
    let names = |stages: &Value| -> Vec<(String, f64)> {
        let of =
            |entry: &Value| Some((entry["stage"].as_str()?.to_owned(), entry["after_ms"].as_u64()? as f64 / 1000.0));
        stages.as_array().into_iter().flatten().filter_map(of).collect()
    };
    // What a boot package tells last, a moment after the prompt.
    let end = if way.has_package { "up" } else { "script" };
    wait_for("the end of a boot", || Ok(Some(names(&last()?)).filter(|all| all.iter().any(|(name, _)| name == end))))
}

fn fetched(cache: &CacheServer) -> Result<u64> {
    cache.status()?["fetched_bytes"].as_u64().context("no fetched_bytes")
}

fn table(local: &Samples, lines: &[Line]) -> String {
    let mut table = format!(
        "### Boots by the network\n\nA machine without a disk, from QEMU's start to `login:`, in emulation, on one machine with all the rest: its address, iPXE's \
         menu (one second), and then the system; its line to the cache server by `tbf`, the master on loopback. `script`, `root`, `up`: when, after it asked \
         for an address, it asked for its boot script, mounted its root, and reached multi-user.target; one without a boot package does not tell. \
         The ratios are to a boot of the same system from a local disk, {:.1} s (medians of {} rounds); the goal, again over 1 Gbit/s, is 1.15. \
         Without icbd: `sanboot` of a plain file that tgtd serves, beside a dnsmasq.\n\n\
         | way | line | cache | login | ratio | script | root | up | from the master |\n\
         | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n",
        local.median(),
        local.len()
    );
    for ((_, rate), line) in RATES.iter().zip(lines) {
        table.push_str(&format!(
            "| without icbd | {rate} | – | {:.1} s | {:.2} | – | – | – | – |\n",
            line.others.median(),
            ratio_of_rounds(&line.others, local)
        ));
        let of_ways = WAYS
            .iter()
            .zip(&line.ways)
            .flat_map(|(way, states)| STATES.iter().zip(states).map(move |of| (way.name, of)));
        for (way, (state, boots)) in of_ways {
            let stages: Vec<String> = boots
                .stages
                .iter()
                .map(|samples| if samples.len() == 0 { "–".to_owned() } else { format!("{:.1} s", samples.median()) })
                .collect();
            table.push_str(&format!(
                "| {way} | {rate} | {state} | {:.1} s | {:.2} | {} | {:.1} MiB |\n",
                boots.login.median(),
                ratio_of_rounds(&boots.login, local),
                stages.join(" | "),
                boots.fetched.median()
            ));
        }
    }
    table
}
