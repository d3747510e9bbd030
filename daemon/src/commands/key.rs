//! `icbd key`: key pairs, and the folder of those that are believed. Needs no daemon.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use icbd_image::{PublicKey, SecretKey};
use serde::Serialize;

use crate::args::KeyCommand;
use crate::audit::Audit;
use crate::control::Peer;
use crate::failure::{Exit, Failure};
use crate::near;
use crate::output::table;
use crate::settings::Settings;
use crate::trust::{self, TrustedKey};

/// A key as it is shown.
#[derive(Debug, Serialize)]
struct KeyReport {
    fingerprint: String,
    comment: String,
    file: PathBuf,
}

impl KeyReport {
    fn new(key: &PublicKey, file: &Path) -> KeyReport {
        KeyReport { fingerprint: key.id().to_string(), comment: key.comment().to_owned(), file: file.to_owned() }
    }
}

pub(crate) fn run(settings: &Settings, command: &KeyCommand) -> Result<()> {
    match command {
        KeyCommand::Create { file, comment } => create(settings, file, comment),
        KeyCommand::List => {
            let keys = trust::load(&settings.trust().keys)?;
            let reports: Vec<KeyReport> =
                keys.iter().map(|trusted| KeyReport::new(&trusted.key, &trusted.path)).collect();
            settings.talk().result(&reports, |reports| list(reports))
        }
        KeyCommand::Trust { file } => trust_key(settings, file),
        KeyCommand::Revoke { key } => revoke(settings, key),
    }
}

fn create(settings: &Settings, file: &Path, comment: &str) -> Result<()> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| anyhow::anyhow!("the system gives no random numbers: {error}"))?;
    let secret = SecretKey::from_random(seed, comment);
    let public_file = public_name(file);
    // The public half first: if it is there already, no secret was written yet.
    write_new(&public_file, 0o644, &secret.public().to_string())?;
    write_new(file, 0o600, &secret.to_secret_text())?;
    let report = KeyReport::new(&secret.public(), file);
    settings.talk().say(format_args!("keep {} secret; caches trust {}", file.display(), public_file.display()));
    settings.talk().result(&report, |report| report.fingerprint.clone())
}

/// `FILE.pub`.
fn public_name(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".pub");
    name.into()
}

fn write_new(path: &Path, mode: u32, line: &str) -> Result<()> {
    let shown = path.display();
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let mut file = file.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            let message = format!("{shown} exists already, and keys are not overwritten; name another file");
            anyhow::Error::from(Failure::new(Exit::Refused, message))
        }
        _ => anyhow::Error::from(error).context(format!("cannot create {shown}")),
    })?;
    writeln!(file, "{line}").and_then(|()| file.sync_all()).with_context(|| format!("cannot write {shown}"))
}

fn list(reports: &[KeyReport]) -> String {
    if reports.is_empty() {
        return "no key is trusted; `icbd key trust FILE.pub` adds one".to_owned();
    }
    let row = |key: &KeyReport| vec![key.fingerprint.clone(), key.comment.clone(), key.file.display().to_string()];
    table(&["FINGERPRINT", "COMMENT", "FILE"], reports.iter().map(row))
}

fn trust_key(settings: &Settings, file: &Path) -> Result<()> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        Failure::new(Exit::Absent, format!("cannot read {}: {error}; name a FILE.pub", file.display()))
    })?;
    if text.parse::<SecretKey>().is_ok() {
        let (shown, public) = (file.display(), public_name(file));
        let message = format!(
            "{shown} is a secret key, which nobody but its owner may have; name its public half, {}",
            public.display()
        );
        return Err(Failure::new(Exit::Usage, message).into());
    }
    let key: PublicKey = text.parse().with_context(|| format!("{} is not a public key", file.display()))?;
    let patterns = settings.trust().keys;
    if let Some(known) = trust::load(&patterns)?.into_iter().find(|known| known.key.id() == key.id()) {
        settings.talk().say(format_args!("{} is trusted already, by {}", key.id(), known.path.display()));
        return Ok(());
    }
    let folder = trust::folder(&patterns)?;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let path = folder.join(format!("{}.pub", key.id()));
    let done = write_new(&path, 0o644, &key.to_string());
    record(folder, &format!("key trust {} {}", key.id(), key.comment()), &done)?;
    done?;
    settings.talk().say(format_args!(
        "written to {}; daemons whose trust.keys names it believe it once they read their configuration again: \
         `icbd config reload` on each",
        path.display()
    ));
    settings.talk().result(&KeyReport::new(&key, &path), |report| report.fingerprint.clone())
}

fn revoke(settings: &Settings, fingerprint: &str) -> Result<()> {
    let keys = trust::load(&settings.trust().keys)?;
    let found: Vec<&TrustedKey> = keys.iter().filter(|trusted| trusted.key.id().to_string() == fingerprint).collect();
    if found.is_empty() {
        let ids: Vec<String> = keys.iter().map(|trusted| trusted.key.id().to_string()).collect();
        let hint = near::hint(fingerprint, ids.iter().map(String::as_str));
        let message = format!("no trusted key has the fingerprint {fingerprint:?}{hint}; `icbd key list` shows them");
        return Err(Failure::new(Exit::Absent, message).into());
    }
    for TrustedKey { path, .. } in found {
        let done = std::fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()));
        record(path.parent().unwrap_or(Path::new(".")), &format!("key revoke {fingerprint}"), &done)?;
        done?;
    }
    settings.talk().say(
        "daemons that run go on believing it until they read their configuration again: run `icbd config reload` on each now",
    );
    Ok(())
}

fn record(folder: &Path, what: &str, done: &Result<()>) -> Result<()> {
    Audit::open(folder)?.record(&Peer::this_process(), what, done);
    Ok(())
}
