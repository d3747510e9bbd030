//! `icbd doctor`.

use anyhow::Result;

use crate::args::{CacheArgs, MasterArgs};
use crate::doctor::{DoctorReport, Patient, examine};
use crate::failure::{Exit, Failure};
use crate::output::counted;
use crate::settings::{Role, Settings};

pub(crate) async fn run(settings: &Settings) -> Result<()> {
    let patient = match settings.role() {
        Some(Role::Master) => {
            settings.master(&MasterArgs::default()).map(|settings| Patient::Master(Box::new(settings)))
        }
        Some(Role::Cache) => settings.cache(&CacheArgs::default()).map(|settings| Patient::Cache(Box::new(settings))),
        None => Err(nothing(settings)),
    };
    look(settings, patient.unwrap_or_else(Patient::Unknown)).await
}

/// Says what is wrong with it.
pub(crate) async fn look(settings: &Settings, patient: Patient) -> Result<()> {
    let report = examine(patient).await?;
    settings.talk().result(&report, DoctorReport::words)?;
    match report.wrong_count() {
        0 => Ok(()),
        count => Err(Failure::new(Exit::Failed, format!("{} to mend", counted(count, "thing"))).into()),
    }
}

/// That nobody says what this machine is to be.
fn nothing(settings: &Settings) -> Failure {
    let message = match &settings.config {
        Some(path) => format!("{} has no role; write role = \"cache\" or role = \"master\" first", path.display()),
        None => "there is no configuration, so only what every server needs is looked at; copy a sample to /etc/icbd/icbd.toml, or name \
                 one with --config"
            .to_owned(),
    };
    Failure::new(Exit::Usage, message)
}
