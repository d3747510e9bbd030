//! Masters that speak TLS, and those who read from them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use icbd_tests::{CacheServer, CacheSettings, Lab, MIB, Master, icbd, pattern, run_bounded, sample_tree, wait_for};
use serde_json::Value;

const USAGE: i32 = 2;
const UNREACHABLE: i32 = 6;
const DISK: u64 = 4 * MIB;

/// A certificate for a name and its key, vouched for by nobody else.
struct Certificate {
    cert: PathBuf,
    key: PathBuf,
}

impl Certificate {
    /// As README has it made.
    fn new(lab: &Lab, name: &str, of: &str) -> Result<Certificate> {
        let (cert, key) = (lab.path(format!("{name}.pem")), lab.path(format!("{name}.key")));
        let mut command = Command::new("openssl");
        command.args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "825",
        ]);
        command.args(["-subj", "/CN=icbd", "-addext", &format!("subjectAltName={of}")]);
        command.args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"]).arg(&key).arg("-out").arg(&cert);
        run_bounded(command, Duration::from_secs(30))?.ok()?;
        Ok(Certificate { cert, key })
    }

    fn config(&self) -> String {
        format!("[master]\ntls_cert = \"{}\"\ntls_key = \"{}\"\n", self.cert.display(), self.key.display())
    }

    fn trusted(&self) -> String {
        format!("[trust]\nca = \"{}\"\n", self.cert.display())
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path of text")
}

/// A master of `lab@1` with this configuration, and its URL.
fn master(lab: &Lab, config: &str) -> Result<(Master, String)> {
    let (tree, repo, file) = (lab.folder("tree")?, lab.path("repo"), lab.path("master.toml"));
    sample_tree(&tree)?;
    fs::write(tree.join("disk.raw"), pattern(1, 0, DISK as usize))?;
    Master::publish_offline(&repo, "lab", &tree, &["--deploy"])?;
    fs::write(&file, config)?;
    let master = Master::start_at(lab, &repo, ([127, 0, 0, 1], 0).into(), &["--config", text(&file)?])?;
    let url = format!("https://127.0.0.1:{}", master.address().port());
    Ok((master, url))
}

fn reader(lab: &Lab, url: &str, config: &str) -> Result<CacheServer> {
    let cache =
        CacheServer::start_with(lab, &[url], &CacheSettings { config: config.to_owned(), ..Default::default() })?;
    ["source", "offline", "unreachable", "list of versions"].iter().for_each(|words| cache.daemon.allow_log(words));
    Ok(cache)
}

/// Why a cache's source is offline, once it is.
fn trouble(cache: &CacheServer) -> Result<String> {
    wait_for("it is offline, with the reason", || {
        Ok(cache.status()?["sources"][0]["error"].as_str().map(str::to_owned))
    })
}

/// Caches and masters read through TLS from a master whose certificate somebody vouches for that they believe, and from no other.
#[test]
fn a_master_that_speaks_tls() -> Result<()> {
    let lab = Lab::new()?;
    let (ours, others) = (Certificate::new(&lab, "ours", "IP:127.0.0.1")?, Certificate::new(&lab, "others", "DNS:x")?);
    let (mut from, url) = master(&lab, &ours.config())?;
    icbd(["status", "--socket", from.socket()])?.prints(&["by TLS"])?;
    let cache = reader(&lab, &url, &ours.trusted())?;
    ensure!(fs::read(cache.path("lab/1/disk.raw"))? == pattern(1, 0, DISK as usize), "wrong bytes");

    for config in ["", &others.trusted()] {
        let stranger = reader(&lab, &url, config)?;
        let why = trouble(&stranger)?;
        ensure!(why.contains("its certificate is not believed") && why.contains("trust.ca"), "{why}");
    }
    let plain = reader(&lab, &url.replace("https:", "http:"), "")?;
    trouble(&plain)?;
    let in_plain = Master::start(&lab, &lab.path("empty"))?;
    ensure!(trouble(&plain)?.contains("write https://"), "no hint at https");
    let why = trouble(&reader(&lab, &in_plain.url().replace("http:", "https:"), "")?)?;
    ensure!(why.contains("what it says is not TLS") && why.contains("allow"), "{why}");

    let (config, to) = (lab.path("to.toml"), lab.path("to"));
    fs::write(&config, ours.trusted())?;
    let to = Master::start_at(&lab, &to, ([127, 0, 0, 1], 0).into(), &["--config", text(&config)?])?;
    let replicate = || icbd(["image", "replicate", "lab@1", "--from", &url, "--socket", to.socket()]);
    replicate()?.ok()?;
    fs::write(&config, "")?;
    to.daemon.allow_log("image replicate");
    to.daemon.allow_log("source is offline");
    icbd(["config", "reload", "--socket", to.socket()])?.prints(&["trust.ca"])?;
    replicate()?.failed_with(UNREACHABLE)?.says(&["its certificate is not believed", "trust.ca"])?;
    from.daemon.stop()
}

/// A certificate that was renewed is shown from the next connection on, and one that cannot be shown is refused with the reason.
#[test]
fn certificates_are_renewed_while_a_master_runs() -> Result<()> {
    let lab = Lab::new()?;
    let (old, new) = (Certificate::new(&lab, "old", "IP:127.0.0.1")?, Certificate::new(&lab, "new", "IP:127.0.0.1")?);
    let (mut from, url) = master(&lab, &old.config())?;
    let reload = || icbd(["config", "reload", "--json", "--socket", from.socket()]);
    ensure!(serde_json::from_str::<Value>(&reload()?.ok()?)?["applied"] == serde_json::json!([]));
    let old_cert = lab.path("copy.pem");
    fs::copy(&old.cert, &old_cert)?;
    fs::copy(&new.cert, &old.cert)?;
    reload()?.failed_with(1)?.says(&["do not belong together"])?;
    fs::copy(&new.key, &old.key)?;
    ensure!(serde_json::from_str::<Value>(&reload()?.ok()?)?["applied"] == serde_json::json!(["master.tls_cert"]));
    let cache = reader(&lab, &url, &new.trusted())?;
    ensure!(fs::read(cache.path("lab/1/disk.raw"))? == pattern(1, 0, DISK as usize), "wrong bytes");
    from.daemon.stop()?;

    // Whoever vouched for it is asked anew, too.
    fs::copy(&old_cert, &new.cert)?;
    cache.command(&["config", "reload"])?.prints(&["trust.ca: in force"])?;
    cache.command(&["config", "reload"])?.prints(&["nothing changed"])?;

    let file = lab.path("wrong.toml");
    let start = |config: &str| -> Result<_> {
        fs::write(&file, config)?;
        let socket = lab.path("wrong.sock");
        icbd(["master", "--repo", text(&lab.path("repo"))?, "--socket", text(&socket)?, "--config", text(&file)?])
    };
    let cert = text(&new.cert)?;
    let check = |config: &str| -> Result<_> {
        fs::write(&file, config)?;
        icbd(["config", "check", "--config", text(&file)?])
    };
    check("role = \"master\"\n[master]\nrepo = \"/srv/icbd\"\ntls_cert = \"/nowhere/c\"\ntls_key = \"/nowhere/k\"\n")?
        .failed_with(USAGE)?
        .says(&["/nowhere/c"])?;
    check("role = \"cache\"\n[[source]]\nurl = \"https://a\"\n[trust]\nca = \"/nowhere/c\"\n")?
        .failed_with(USAGE)?
        .says(&["trust.ca", "/nowhere/c"])?;
    start(&format!("[master]\ntls_cert = \"{cert}\"\n"))?
        .failed_with(USAGE)?
        .says(&["master.tls_key", "go together"])?;
    start(&format!("[master]\ntls_cert = \"{cert}\"\ntls_key = \"/nowhere/k\"\n"))?
        .failed_with(USAGE)?
        .says(&["private key", "/nowhere/k"])?;
    start(&format!("[master]\ntls_cert = \"{cert}\"\ntls_key = \"{cert}\"\n"))?
        .failed_with(USAGE)?
        .says(&["private key", cert])?;
    start(&format!("[trust]\nca = \"{}\"\n", file.display()))?
        .failed_with(USAGE)?
        .says(&["trust.ca", "there is none in it"])?;
    Ok(())
}
