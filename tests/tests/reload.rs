//! A configuration that is changed under running daemons.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use icbd_tests::{CacheServer, CacheSettings, Lab, MIB, Master, fill, icbd, wait_for};
use nix::sys::signal::{Signal, kill};

const USAGE: i32 = 2;
const PARTLY: i32 = 8;

/// A cache takes over what it can while it runs, refuses what is wrong as a whole, and names what needs a restart.
#[test]
fn a_cache_takes_over_its_configuration() -> Result<()> {
    let lab = Lab::new()?;
    let (tree, keys) = (lab.folder("tree")?, lab.folder("trusted")?);
    fill(&tree.join("disk"), 1, 8 * MIB)?;
    Master::publish_offline(&lab.path("repo"), "lab", &tree, &["--deploy"])?;
    let mut master = Master::start(&lab, &lab.path("repo"))?;
    let trust = format!("[trust]\nkeys = [\"{}/*.pub\"]\n", keys.display());
    let settings = CacheSettings { config: trust.clone(), ..Default::default() };
    let cache = CacheServer::start_with(&lab, &[&master.url()], &settings)?;
    let open = |version: &str| File::open(cache.path(format!("lab/{version}/disk")));
    let unsigned = wait_for("the unsigned version", || Ok(open("1").ok()))?;
    ["sign", "configuration is not right", "offline", "unreachable", "disk", "waits"]
        .iter()
        .for_each(|words| cache.daemon.allow_log(words));
    let worker = cache.daemon.worker()?;
    let reload = |file: &str| -> Result<icbd_tests::Output> {
        cache.set_config(file)?;
        cache.command(&["config", "reload"])
    };
    reload(&trust)?.failed_with(0)?.prints(&["nothing changed"])?;

    // One mistake, and nothing of the rest is taken over.
    let wrong = "[log]\nlevel = \"debug\"\n[mount]\noffline_wait = \"soon\"\n";
    reload(wrong)?.failed_with(USAGE)?.says(&["offline_wait", "soon"])?;
    ensure!(!cache.daemon.log().contains(" DEBUG "), "a wrong file was taken over in part");

    let changed = format!("{trust}require = true\n[mount]\noffline_wait = \"1s\"\n[memory]\nin_flight = \"128MiB\"\n");
    for _ in 0..2 {
        // As long as it was not restarted it is said.
        reload(&changed)?.failed_with(PARTLY)?.prints(&["memory.in_flight: needs a restart"])?;
    }
    let told: serde_json::Value = serde_json::from_str(&cache.command(&["config", "reload", "--json"])?.stdout)?;
    ensure!(told["restart"][0] == "memory.in_flight" && told["applied"] == serde_json::json!([]), "{told}");

    // Signatures are required from now on, and a key that was put into the folder counts once it was read.
    let key = lab.path("sign.key");
    icbd(["key", "create", &key.display().to_string()])?.ok()?;
    master.publish("lab", &tree, &["--sign", &key.display().to_string()])?;
    cache.wait_status("a refused version", |status| status["warnings"].to_string().contains("lab@2"))?;
    fs::copy(lab.path("sign.key.pub"), keys.join("publisher.pub"))?;
    cache.command(&["config", "reload"])?.failed_with(PARTLY)?.prints(&["trust.keys: in force"])?;
    wait_for("the signed version", || Ok(fs::metadata(cache.path("lab/2/disk")).ok()))?;

    // By signal, too; the daemon stays the same one.
    cache.set_config(&format!("{changed}[log]\nlevel = \"debug\"\n"))?;
    kill(cache.daemon.pid(), Signal::SIGHUP)?;
    wait_for("the log to say so", || Ok(cache.daemon.log().contains("configuration read anew").then_some(())))?;
    // Who had the unsigned one open reads on.
    unsigned.read_exact_at(&mut [0; 10], 0)?;
    let file = open("2")?;
    file.read_exact_at(&mut [0; 10], 0)?;
    wait_for("the log to tell more", || Ok(cache.daemon.log().contains(" DEBUG ").then_some(())))?;
    ensure!(cache.daemon.worker()? == worker, "the daemon was restarted");

    master.daemon.stop()?;
    let started = Instant::now();
    ensure!(file.read_exact_at(&mut [0; 10], 7 * MIB).is_err(), "a block came from nowhere");
    ensure!(started.elapsed() < Duration::from_secs(20), "it waited {:?}, not a second", started.elapsed());
    let log = cache.command(&["log"])?.ok()?;
    ensure!(log.contains("config reload"), "the audit log does not name it:\n{log}");
    Ok(())
}

/// So does a master.
#[test]
fn a_master_takes_over_its_configuration() -> Result<()> {
    let lab = Lab::new()?;
    let (tree, config, key) = (lab.folder("tree")?, lab.path("master.toml"), lab.path("sign.key"));
    fs::write(tree.join("file"), "x")?;
    fs::write(&config, "")?;
    let config_text = config.to_str().context("paths of a lab are text")?;
    let master = Master::start_at(&lab, &lab.path("repo"), "127.0.0.1:0".parse()?, &["--config", config_text])?;
    let reload = || icbd(["config", "reload", "--socket", master.socket()]);
    reload()?.failed_with(0)?.prints(&["nothing changed"])?;
    icbd(["key", "create", &key.display().to_string()])?.ok()?;
    let with_key = format!("[sign]\nkey = \"{}\"\n[trust]\nkeys = [\"{0}.pub\"]\n", key.display());
    fs::write(&config, format!("{with_key}[master]\nallow = [\"10.0.0.0/8\"]\nlisten = [\"127.0.0.1:1\"]\n"))?;
    let words = ["sign.key: in force", "master.allow: in force", "master.listen: needs a restart"];
    reload()?.failed_with(PARTLY)?.prints(&words)?.says(&["master.listen"])?;
    master.publish("lab", &tree, &[])?;
    let verified = icbd(["image", "verify", "lab@1", "--json", "--socket", master.socket()])?.ok()?;
    let verified: serde_json::Value = serde_json::from_str(&verified)?;
    ensure!(verified["signer"].is_string(), "it was not signed with the new key: {verified}");
    kill(master.daemon.pid(), Signal::SIGHUP)?;
    wait_for("the log to say so", || Ok(master.daemon.log().contains("configuration read anew").then_some(())))
}
