//! `icbd export`.

use anyhow::Result;
use http::Method;

use crate::args::ExportCommand;
use crate::control::Client;
use crate::exports::{ExportReport, ExportSpec, UnexportSpec};
use crate::failure::{Exit, Failure};
use crate::settings::{Role, Settings};

pub(crate) async fn run(settings: &Settings, command: ExportCommand) -> Result<()> {
    let mut client = Client::connect(&settings.sockets(Role::Cache)).await?;
    match command {
        ExportCommand::Add { image, by, clients, disk, clone, message } => {
            let spec = ExportSpec { image, protocol: by.protocol(), clients, disk, clone, why: message };
            let report: ExportReport = client.call(Method::POST, "/v1/exports", &spec).await?;
            settings.talk().result(&report, ExportReport::words)?;
            match report.troubles.is_empty() && (clone || !report.offers.is_empty()) {
                true => Ok(()),
                false => {
                    let message =
                        "it is kept, and not all of it is offered yet; `icbd export list` says how that goes on";
                    Err(Failure::new(Exit::Partly, message).into())
                }
            }
        }
        ExportCommand::List => {
            let exports: Vec<ExportReport> = client.get("/v1/exports").await?;
            settings.talk().result(&exports, |exports| ExportReport::list(exports))
        }
        ExportCommand::Remove { image, by, message } => {
            let spec = UnexportSpec { image, protocol: by.protocol(), why: message };
            client.call(Method::POST, "/v1/unexport", &spec).await
        }
    }
}
