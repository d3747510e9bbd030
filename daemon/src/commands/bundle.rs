//! `icbd support-bundle`: a tar of what those who help ask first. Every part has a time-out of its own,
//! because it is made when something hangs. Keys are not in it.

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result};

use super::block_on;
use crate::control::Client;
use crate::output;
use crate::settings::{Role, Settings};

/// What does not come within this hangs, and that it does is worth knowing, too.
const PART_MAX: Duration = Duration::from_secs(10);
/// Lines of the journal: some days of a quiet daemon, some minutes of a loud one.
const LOG_LINES: &str = "5000";

/// What a part is, and how it is got.
type Part = (&'static str, Box<dyn FnOnce() -> Result<Vec<u8>> + Send>);

pub(crate) fn run(settings: &Settings, file: Option<PathBuf>) -> Result<()> {
    let now = output::now();
    let stamp: String = output::time(now).chars().filter(char::is_ascii_alphanumeric).collect();
    let file = file.unwrap_or_else(|| format!("icbd-support-{stamp}.tar").into());
    let shown = file.display().to_string();
    // For its owner alone: it tells much of the machine.
    let target = std::fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&file)
        .with_context(|| format!("cannot create {shown}; name another file"))?;
    let mut bundle = tar::Builder::new(target);
    // All at once: ten parts that hang take no longer than one.
    let waiting: Vec<_> = parts(settings).into_iter().map(|(name, get)| (name, begin(get))).collect();
    for (name, answer) in waiting {
        let content = answer
            .recv_timeout(PART_MAX)
            .unwrap_or_else(|_| Ok(format!("no answer within {} s\n", PART_MAX.as_secs()).into_bytes()));
        let content = content.unwrap_or_else(|error| format!("{error:#}\n").into_bytes());
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(now.seconds.unsigned_abs());
        bundle
            .append_data(&mut header, format!("icbd-support-{stamp}/{name}"), content.as_slice())
            .with_context(|| format!("cannot write {shown}"))?;
    }
    bundle.into_inner().and_then(|file| file.sync_all()).with_context(|| format!("cannot write {shown}"))?;
    settings.talk().result(&file, |file| file.display().to_string())
}

/// Starts to get a part. A thread that hangs ends with this process.
fn begin(get: impl FnOnce() -> Result<Vec<u8>> + Send + 'static) -> mpsc::Receiver<Result<Vec<u8>>> {
    let (send, receive) = mpsc::sync_channel(1);
    std::thread::spawn(move || send.send(get()));
    receive
}

fn parts(settings: &Settings) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for (likely, status, images) in [
        (Role::Master, "master-status.json", "master-images.json"),
        (Role::Cache, "cache-status.json", "cache-images.json"),
    ] {
        // Where only one of them can be meant, it is asked once.
        if settings.role().is_some_and(|role| role != likely) {
            continue;
        }
        let sockets = settings.sockets(likely);
        let others = sockets.clone();
        parts.push((status, Box::new(move || ask(&sockets[..1], "/v1/status"))));
        parts.push((images, Box::new(move || ask(&others[..1], "/v1/images"))));
    }
    if let Some(config) = settings.place() {
        parts
            .push(("icbd.toml", Box::new(move || Ok(without_secrets(&std::fs::read_to_string(config)?).into_bytes()))));
    }
    let effective = toml::to_string_pretty(&settings.file.clone().with_defaults());
    parts.push(("icbd-effective.toml", Box::new(move || Ok(effective?.into_bytes()))));
    parts.push(("icbd-version", Box::new(|| Ok(concat!(env!("CARGO_PKG_VERSION"), "\n").as_bytes().to_vec()))));
    for (name, path) in [
        ("kernel", "/proc/version"),
        ("os-release", "/etc/os-release"),
        ("mountinfo", "/proc/self/mountinfo"),
        ("meminfo", "/proc/meminfo"),
        ("pressure-io", "/proc/pressure/io"),
    ] {
        parts.push((name, Box::new(move || Ok(std::fs::read(path)?))));
    }
    parts.push(("fuse-connections", Box::new(fuse_connections)));
    parts.push(("df", Box::new(|| run_program("df", &["-hlT"]))));
    parts.push(("processes", Box::new(|| run_program("ps", &["-eo", "pid,ppid,stat,wchan:30,etime,rss,args"]))));
    parts.push((
        "journal",
        Box::new(|| {
            let units = ["-u", "icbd-master", "-u", "icbd-cache", "-n", LOG_LINES, "--no-pager", "-o", "short-iso"];
            run_program("journalctl", &units)
        }),
    ));
    parts
}

fn ask(sockets: &[PathBuf], path: &'static str) -> Result<Vec<u8>> {
    block_on(async {
        let value: serde_json::Value = Client::connect(sockets).await?.get(path).await?;
        Ok(serde_json::to_vec_pretty(&value)?)
    })
}

/// The configuration; lines that look as if they held a secret lose what is behind the `=`.
fn without_secrets(text: &str) -> String {
    let is_secret = |key: &str| ["secret", "password", "token"].iter().any(|word| key.to_lowercase().contains(word));
    let line = |line: &str| match line.split_once('=') {
        Some((key, _)) if is_secret(key) => format!("{key}= (left out)\n"),
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

/// How many requests each FUSE connection waits for: the first thing to look at when a mount hangs.
fn fuse_connections() -> Result<Vec<u8>> {
    let mut text = String::new();
    for entry in std::fs::read_dir(Path::new("/sys/fs/fuse/connections"))? {
        let path = entry?.path();
        let waiting = std::fs::read_to_string(path.join("waiting")).unwrap_or_else(|error| error.to_string());
        text.push_str(&format!("{} waiting {}\n", path.display(), waiting.trim()));
    }
    Ok(text.into_bytes())
}

fn run_program(program: &str, args: &[&str]) -> Result<Vec<u8>> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {program}"))?;
    Ok([output.stdout, output.stderr].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_left_out() {
        let text = "[master]\nrepo = \"/srv\"\napi_token = \"abc\"\n";
        assert_eq!(without_secrets(text), "[master]\nrepo = \"/srv\"\napi_token = (left out)\n");
    }
}
