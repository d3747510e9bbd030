//! `icbd profile`.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use http::Method;
use icbd_image::{ImageRef, Profile, Timestamp, VersionId};

use crate::args::ProfileCommand;
use crate::control::Client;
use crate::failure::{Exit, Failure};
use crate::output::{bytes, counted, plain, table, time};
use crate::profiles::{Bytes, FileReport, ImportBody, ImportResult, ProfileReport};
use crate::settings::{Role, Settings};
use crate::verify::VersionBody;

pub(crate) async fn run(settings: &Settings, command: ProfileCommand) -> Result<()> {
    let mut client = Client::connect(&settings.sockets(Role::Cache)).await?;
    match command {
        ProfileCommand::Show { version } => {
            let body = VersionBody { version };
            let report: ProfileReport = client.call(Method::POST, "/v1/profile/show", &body).await?;
            settings.talk().result(&report, show)
        }
        ProfileCommand::Export { version, file } => {
            let wanted = ImageRef { image: version.image.clone(), number: Some(version.number) };
            let body = VersionBody { version: wanted };
            let profile: Bytes = client.call(Method::POST, "/v1/profile/export", &body).await?;
            let path = file.unwrap_or_else(|| PathBuf::from(format!("{version}.profile")));
            write(&path, &profile.0)?;
            settings.talk().result(&Exported { version, file: path }, |to| plain(&to.file.display().to_string()))
        }
        ProfileCommand::Import { file, version } => {
            let body = ImportBody { profile: Bytes(read(&file)?), version };
            let imported = client.call(Method::POST, "/v1/profile/import", &body).await;
            let result: ImportResult = imported.with_context(|| format!("cannot import {}", file.display()))?;
            settings.talk().result(&result, |result| {
                let news = if result.is_new { "" } else { ", nothing of it new" };
                let from = result.learned_on.as_ref().map_or_else(String::new, |of| format!(" of {of}"));
                let set =
                    result.boot_set_bytes.map_or_else(String::new, |set| format!("; its boot set is {}", bytes(set)));
                format!("{}: {}{from}{news}{set}", result.version, counted(result.boots, "boot"))
            })
        }
    }
}

#[derive(serde::Serialize)]
struct Exported {
    version: VersionId,
    file: PathBuf,
}

fn show(report: &ProfileReport) -> String {
    let at = |seconds: u64| time(Timestamp { seconds: seconds as i64, nanoseconds: 0 });
    let boots = match report.carried {
        0 => report.boots.to_string(),
        carried => format!("{} and {carried} of other versions", report.boots),
    };
    let lines = [
        ("version", report.version.to_string()),
        ("boot set", format!("{} in {}", bytes(report.bytes), counted(report.runs, "run"))),
        ("boots", format!("{boots}, at {}", counted(report.sites, "site"))),
        ("first seen", at(report.first_seen)),
        ("last seen", at(report.last_seen)),
    ];
    let row = |file: &FileReport| vec![plain(&file.path), file.runs.to_string(), bytes(file.bytes)];
    let head = lines.map(|(key, value)| format!("{key:<10} {value}")).join("\n");
    format!("{head}\n\n{}", table(&["FILE", ">RUNS", ">SIZE"], report.files.iter().map(row)))
}

/// Writes a new file: what a profile was learned from may not come again.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let message = format!("{} exists; name another file", path.display());
            Err(Failure::new(Exit::Refused, message).into())
        }
        opened => {
            let written = opened.and_then(|mut file| file.write_all(bytes));
            written.with_context(|| format!("cannot write {}", path.display()))
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let file = std::fs::File::open(path).map_err(|error| {
        let exit = if error.kind() == std::io::ErrorKind::NotFound { Exit::Absent } else { Exit::Failed };
        Failure::new(exit, format!("cannot read {}: {error}", path.display()))
    })?;
    let mut bytes = Vec::new();
    let read = file.take(Profile::BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
    read.with_context(|| format!("cannot read {}", path.display()))?;
    if bytes.len() > Profile::BYTES_MAX {
        let message = format!(
            "{} is no boot profile: it has more than {}",
            path.display(),
            crate::output::bytes(Profile::BYTES_MAX as u64)
        );
        return Err(Failure::new(Exit::Verification, message).into());
    }
    Ok(bytes)
}
