//! What those who watch over icbd are told, on good days and bad ones: `icbd check` and `/metrics`.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use icbd_tests::{
    CacheServer, CacheSettings, Fault, FileSystem, Lab, MIB, Master, Metrics, Output, Proxy, Volume, files_below, get,
    icbd, solid, wait_for,
};

const OK: i32 = 0;
const WARNING: i32 = 1;
const CRITICAL: i32 = 2;
const UNKNOWN: i32 = 3;
const VERIFICATION: i32 = 7;
const FILE_BYTES: u64 = 8 * MIB;
const LAB_1: [(&str, &str); 2] = [("image", "lab"), ("version", "1")];

/// A master of `lab@1`, and a way to it that can be cut.
fn site(lab: &Lab) -> Result<(Master, Proxy)> {
    let tree = lab.folder("tree")?;
    fs::write(tree.join("disk"), solid(1, FILE_BYTES))?;
    Master::publish_offline(&lab.path("repo"), "lab", &tree, &["--deploy"])?;
    let master = Master::start(lab, &lab.path("repo"))?;
    let proxy = Proxy::start(master.address())?;
    Ok((master, proxy))
}

/// A cache that lets itself be watched.
fn cache(lab: &Lab, url: &str, store: Option<PathBuf>) -> Result<CacheServer> {
    let config = "[serve]\nlisten = [\"127.0.0.1:0\"]\n".to_owned();
    CacheServer::start_with(lab, &[url], &CacheSettings { config, store, ..CacheSettings::default() })
}

fn address(cache: &CacheServer) -> Result<SocketAddr> {
    Ok(cache.status()?["listen"][0].as_str().context("it listens nowhere")?.parse()?)
}

/// Waits until the check ends with `code` and says `words`; its line.
fn wait_check(cache: &CacheServer, code: i32, words: &str) -> Result<String> {
    let mut last = String::new();
    let waited = wait_for(&format!("a check with code {code} that says {words:?}"), || {
        let Output { code: found, stdout, .. } = cache.command(&["check"])?;
        let is_so = found == code && stdout.contains(words) && stdout.lines().count() == 1;
        last = stdout;
        Ok(is_so.then_some(()))
    });
    waited.with_context(|| format!("last it was {last:?}")).map(|()| last)
}

/// Waits until a series has a value.
fn wait_value(server: SocketAddr, name: &str, labels: &[(&str, &str)], value: f64) -> Result<Metrics> {
    wait_for(&format!("{name} {labels:?} is {value}"), || {
        Ok(Some(Metrics::of(server)?).filter(|metrics| metrics.value(name, labels) == Some(value)))
    })
}

/// On a good day both daemons are well, and count what they do.
#[test]
fn a_good_day() -> Result<()> {
    let lab = Lab::new()?;
    let (master, _) = site(&lab)?;
    let cache = cache(&lab, &master.url(), None)?;
    let server = address(&cache)?;
    let line = wait_check(&cache, OK, "1 of 1 sources online")?;
    ensure!(line.starts_with("ICBD OK: ") && line.contains("| waiting_reads=0 offline_sources=0;;;0;1 "), "{line}");
    let of_master = icbd(["check", "--socket", master.socket()])?.failed_with(OK)?;
    of_master.prints(&["ICBD OK: ", "master of 1 image with 1 version", " | versions=1 damaged_versions=0 "])?;

    let (before, before_master) = (Metrics::of(server)?, Metrics::of(master.address())?);
    ensure!(before.value("icbd_version_complete", &LAB_1) == Some(0.0), "{before:?}");
    cache.prefetch_all("lab@1")?;
    let (after, after_master) = (Metrics::of(server)?, Metrics::of(master.address())?);
    after.grew_since(&before)?;
    after_master.grew_since(&before_master)?;
    let fetched = after.value("icbd_fetched_bytes_total", &[]).context("no fetched bytes")?;
    ensure!(after_master.value("icbd_sent_blocks_total", &[]) == Some(fetched / 65_536.0), "{after_master:?}");
    let url = master.url();
    for (name, labels, value) in [
        ("icbd_version_complete", &LAB_1[..], 1.0),
        ("icbd_version_resident_bytes", &LAB_1, FILE_BYTES as f64),
        ("icbd_source_up", &[("source", &*url)], 1.0),
        ("icbd_mounted", &[], 1.0),
        ("icbd_store_state", &[("state", "ok")], 1.0),
        ("icbd_waiting_reads", &[], 0.0),
        ("icbd_warnings", &[], 0.0),
    ] {
        ensure!(after.value(name, labels) == Some(value), "{name} is {:?}", after.value(name, labels));
    }
    let role = [("version", env!("CARGO_PKG_VERSION")), ("role", "master")];
    ensure!(after_master.value("icbd_build_info", &role) == Some(1.0), "{after_master:?}");
    ensure!(get(server, "/metrics/")?.status == 404, "another path is answered, too");
    let check: serde_json::Value = serde_json::from_str(&cache.command(&["check", "--json"])?.ok()?)?;
    ensure!(check["level"] == "ok" && check["problems"] == serde_json::json!([]), "{check}");
    Ok(())
}

/// A master that is down is a warning; who reads what is not here waits, and is counted; all is well again by itself.
#[test]
fn a_master_that_is_down_and_reads_that_wait() -> Result<()> {
    let lab = Lab::new()?;
    let (_master, proxy) = site(&lab)?;
    let cache = cache(&lab, &proxy.url(), None)?;
    ["waiting", "offline"].iter().for_each(|words| cache.daemon.allow_log(words));
    let server = address(&cache)?;
    let (url, file) = (proxy.url(), File::open(cache.path("lab/1/disk"))?);
    file.read_exact_at(&mut [0; 10], 0)?;
    proxy.set(Fault::Refuse, "");
    wait_check(&cache, WARNING, &format!("source {url} is offline"))?;
    wait_value(server, "icbd_source_up", &[("source", &url)], 0.0)?;
    std::thread::scope(|scope| -> Result<()> {
        let reader = scope.spawn(|| {
            let mut bytes = vec![0; 1000];
            file.read_exact_at(&mut bytes, FILE_BYTES - 1000).map(|()| bytes)
        });
        let line = wait_check(&cache, WARNING, "1 read waits, since ");
        let waiting = wait_value(server, "icbd_waiting_reads", &[], 1.0);
        proxy.set(Fault::None, "");
        let bytes = reader.join().expect("a reader does not panic")?;
        ensure!(bytes == solid(1, FILE_BYTES)[FILE_BYTES as usize - 1000..], "wrong bytes");
        let (line, waiting) = (line?, waiting?);
        ensure!(line.contains("for lab@1 disk block 127") && line.contains("| waiting_reads=1 "), "{line}");
        ensure!(waiting.value("icbd_longest_wait_seconds", &[]) >= Some(1.0), "{waiting:?}");
        Ok(())
    })?;
    wait_check(&cache, OK, "1 of 1 sources online")?;
    wait_value(server, "icbd_waiting_reads", &[], 0.0).map(drop)
}

/// A read that was given up is critical for a while: a program got an I/O error, and nobody waits any more.
#[test]
fn a_read_that_failed_is_told_of() -> Result<()> {
    let lab = Lab::new()?;
    let (_master, proxy) = site(&lab)?;
    let config = "[serve]\nlisten = [\"127.0.0.1:0\"]\n[mount]\noffline_wait = \"500ms\"\n".to_owned();
    let settings = CacheSettings { config, ..CacheSettings::default() };
    let cache = CacheServer::start_with(&lab, &[&proxy.url()], &settings)?;
    ["waiting", "offline", "could not be had", "wrong block"].iter().for_each(|words| cache.daemon.allow_log(words));
    let file = File::open(cache.path("lab/1/disk"))?;
    proxy.set(Fault::Corrupt, "/blocks/");
    ensure!(file.read_exact_at(&mut [0; 10], FILE_BYTES - 1000).is_err(), "wrong blocks were read");
    proxy.set(Fault::None, "");
    let line = wait_check(&cache, CRITICAL, "with an I/O error, for lab@1 disk, block 127: ")?;
    ensure!(line.contains("a read failed "), "{line}");
    cache.command(&["status"])?.prints(&["! a read failed "])?;
    ensure!(Metrics::of(address(&cache)?)?.value("icbd_failed_reads_total", &[]) >= Some(1.0));
    Ok(())
}

/// A deadline that is missed is a warning until all is here.
#[test]
fn a_missed_deadline() -> Result<()> {
    let lab = Lab::new()?;
    let (_master, proxy) = site(&lab)?;
    let cache = cache(&lab, &proxy.url(), None)?;
    ["source", "offline", "prefetch", "waits"].iter().for_each(|words| cache.daemon.allow_log(words));
    let server = address(&cache)?;
    proxy.set(Fault::Stall, "/blocks/");
    let by = (jiff::Timestamp::now() + jiff::SignedDuration::from_secs(1)).to_string();
    cache.command(&["prefetch", "add", "lab@1", "--all", "--by", &by, "--limit", "8mbit"])?.ok()?;
    wait_check(&cache, WARNING, "prefetch order 1 of lab@1 is late")?;
    let late = wait_value(server, "icbd_prefetch_orders", &[("verdict", "late")], 1.0)?;
    ensure!(late.value("icbd_prefetch_left_bytes", &[]) > Some(0.0), "{late:?}");
    wait_for("the deadline", || Ok(cache.daemon.log().contains("missed its deadline").then_some(())))?;
    cache.command(&["prefetch", "set", "1", "--limit", "off"])?.ok()?;
    proxy.set(Fault::None, "");
    wait_check(&cache, OK, "1 of 1 versions complete")?;
    wait_value(server, "icbd_prefetch_orders", &[("verdict", "late")], 0.0).map(drop)
}

/// A full store is a warning, and a disk that gives back something else than was written is critical.
#[test]
fn a_store_that_is_full_and_one_that_is_suspect() -> Result<()> {
    let lab = Lab::new()?;
    let (master, _) = site(&lab)?;
    let volume = Volume::new(&lab, FileSystem::Ext4, 32 * MIB)?;
    let full = cache(&lab, &master.url(), Some(volume.path().join("store")))?;
    ["full", "No space", "noted", "kept", "min_free"].iter().for_each(|words| full.daemon.allow_log(words));
    // Something else fills the disk, but for less than what is read.
    let other = File::create(volume.path().join("other"))?;
    let written =
        (0..32).take_while(|mib| other.write_all_at(&vec![1; MIB as usize], mib * MIB).is_ok()).count() as u64;
    other.set_len((written - 4) * MIB)?;
    ensure!(fs::read(full.path("lab/1/disk"))? == solid(1, FILE_BYTES), "wrong bytes");
    let line = wait_check(&full, WARNING, " is full: ")?;
    ensure!(line.contains(volume.path().to_str().context("a path of text")?), "{line}");
    wait_value(address(&full)?, "icbd_store_state", &[("state", "full")], 1.0)?;

    let mut suspect = cache(&lab, &master.url(), None)?;
    suspect.prefetch_all("lab@1")?;
    suspect.daemon.stop()?;
    let file = files_below(suspect.store())?.into_iter().find(|path| path.ends_with("disk"));
    let file = suspect.store().join(file.context("the store holds the file under its own name")?);
    File::options().write(true).open(&file)?.write_all_at(b"damage", 2 * MIB + 5)?;
    suspect.start_again(&lab)?;
    suspect.daemon.allow_log("");
    wait_check(&suspect, OK, "1 of 1 versions complete")?;
    suspect.command(&["image", "verify", "lab@1"])?.failed_with(VERIFICATION)?;
    wait_check(&suspect, CRITICAL, " is suspect: ")?;
    wait_value(address(&suspect)?, "icbd_store_state", &[("state", "suspect")], 1.0).map(drop)
}

/// A daemon that is down or hangs is critical; what cannot be told is unknown, a wrong command line included.
#[test]
fn daemons_that_do_not_answer() -> Result<()> {
    let lab = Lab::new()?;
    let socket = lab.path("nobody.sock");
    let socket = socket.to_str().context("a path of text")?;
    let check = |args: &[&str], code: i32, words: &[&str]| -> Result<()> {
        let output = icbd([&["check"], args].concat())?.failed_with(code)?;
        ensure!(output.stdout.lines().count() == 1, "not one line: {:?}", output.stdout);
        output.prints(words).map(drop)
    };
    check(&["--socket", socket], CRITICAL, &["ICBD CRITICAL: no icbd daemon answers at ", socket])?;
    // It accepts, as the kernel does for it, and says nothing.
    let _listener = UnixListener::bind(socket)?;
    check(&["--socket", socket], CRITICAL, &["ICBD CRITICAL: the daemon did not answer within 5 s"])?;
    check(&["--sockets", socket], UNKNOWN, &["ICBD UNKNOWN: ", "--sockets"])?;
    let config = lab.path("broken.toml");
    fs::write(&config, "rôle = 1\nroll = 2\n")?;
    check(&["--config", config.to_str().context("a path of text")?], UNKNOWN, &["ICBD UNKNOWN: ", "broken.toml"])?;
    ensure!(icbd(["check", "--help"])?.ok()?.contains("3 UNKNOWN"), "the codes are not in the help");
    Ok(())
}
