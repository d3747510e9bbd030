//! `icbd config`: is the file right, and what does it come to.

use std::path::PathBuf;

use anyhow::Result;
use http::Method;
use serde::Serialize;

use crate::args::{CacheArgs, ConfigCommand, MasterArgs};
use crate::control::Client;
use crate::failure::{Exit, Failure};
use crate::serve::Certificate;
use crate::settings::{Reloaded, Role, Settings};

pub(crate) fn run(settings: &Settings, command: ConfigCommand) -> Result<()> {
    match command {
        ConfigCommand::Check => check(settings),
        ConfigCommand::Reload => super::block_on(reload(settings)),
        ConfigCommand::Show { .. } => {
            let file = settings.file.clone().with_defaults();
            settings.talk().result(&file, |file| toml::to_string_pretty(file).unwrap_or_default())
        }
    }
}

/// The daemon reads its own file, which may be another one than this command's.
async fn reload(settings: &Settings) -> Result<()> {
    let mut client = Client::connect(&settings.sockets(Role::Cache)).await?;
    let reloaded: Reloaded = client.call(Method::POST, "/v1/reload", &()).await?;
    settings.talk().result(&reloaded, |reloaded| match (&reloaded.applied[..], &reloaded.restart[..]) {
        ([], []) => "nothing changed".to_owned(),
        (applied, restart) => {
            let applied = applied.iter().map(|key| format!("{key}: in force"));
            applied.chain(restart.iter().map(|key| format!("{key}: needs a restart"))).collect::<Vec<_>>().join("\n")
        }
    })?;
    if reloaded.restart.is_empty() {
        return Ok(());
    }
    let message = format!("in force after a restart of the daemon only: {}", reloaded.restart.join(", "));
    Err(Failure::new(Exit::Partly, message).into())
}

/// That the file can be read was seen when it was read; here is what a daemon would ask of it.
fn check(settings: &Settings) -> Result<()> {
    match settings.file.role {
        Some(Role::Master) => {
            let master = settings.master(&MasterArgs::default())?;
            if let Some(key) = &master.sign_key {
                crate::roles::master::read_secret_key(key)?;
            }
            let certificate = master.tls.as_ref().map(Certificate::load).transpose();
            certificate.map_err(|error| Failure::new(Exit::Usage, format!("{error:#}")))?;
        }
        Some(Role::Cache) => drop(settings.cache(&CacheArgs::default())?),
        None => {}
    }
    let trust = settings.trust();
    trust.authorities()?;
    let keys = trust.load()?.keys;
    if trust.require && keys.is_empty() {
        let patterns: Vec<String> = trust.keys.iter().map(|path| path.display().to_string()).collect();
        let message = format!(
            "trust.require is set and no key is trusted ({}): no version could be used; run `icbd key trust FILE.pub`",
            patterns.join(", ")
        );
        return Err(Failure::new(Exit::Usage, message).into());
    }
    let checked = Checked { file: settings.config.clone(), role: settings.file.role };
    settings.talk().result(&checked, |checked| match &checked.file {
        Some(path) => format!("{}: right", path.display()),
        None => "there is no configuration file; the defaults hold".to_owned(),
    })
}

/// A configuration that is right.
#[derive(Debug, Serialize)]
struct Checked {
    file: Option<PathBuf>,
    role: Option<Role>,
}
