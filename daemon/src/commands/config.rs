//! `icbd config`: is the file right, and what does it come to.

use anyhow::Result;

use crate::args::{CacheArgs, ConfigCommand, MasterArgs};
use crate::settings::{Role, Settings};

pub(crate) fn run(settings: &Settings, command: ConfigCommand) -> Result<()> {
    match command {
        ConfigCommand::Check => check(settings),
        ConfigCommand::Show { .. } => {
            let file = settings.file.clone().with_defaults();
            settings.talk().result(&file, |file| toml::to_string_pretty(file).unwrap_or_default())
        }
    }
}

/// That the file can be read was seen when it was read; here is what a daemon would ask of it.
fn check(settings: &Settings) -> Result<()> {
    match settings.file.role {
        Some(Role::Master) => drop(settings.master(&MasterArgs::default())?),
        Some(Role::Cache) => drop(settings.cache(&CacheArgs::default())?),
        None => {}
    }
    settings.trust().load()?;
    match &settings.config {
        Some(path) => settings.talk().say(format_args!("{}: right", path.display())),
        None => settings.talk().say("there is no configuration file; the defaults hold"),
    }
    Ok(())
}
