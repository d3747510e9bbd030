//! `icbd client`.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use anyhow::{Context, Result};
use http::Method;
use icbd_export::{Faults, text_of_sheet};
use icbd_image::ClientName;

use crate::args::ClientCommand;
use crate::clients::{
    BootEntry, BootsSpec, ClientReport, ClientSpec, ClientsReport, ExplainReport, ImportReport, ImportSpec,
    SHEET_BYTES_MAX, WakeSpec, boots_words, faults_of,
};
use crate::control::Client;
use crate::failure::{Exit, Failure};
use crate::output::bytes;
use crate::settings::{Role, Settings};

const STANDARD_INPUT: &str = "-";

pub(crate) async fn run(settings: &Settings, command: ClientCommand) -> Result<()> {
    let mut client = Client::connect(&settings.sockets(Role::Cache)).await?;
    match command {
        ClientCommand::Import { file, dry_run, message } => {
            let name = if file == Path::new(STANDARD_INPUT) {
                "standard input".to_owned()
            } else {
                file.display().to_string()
            };
            let read = read(&file).with_context(|| format!("cannot read {name}"))?;
            let sheet = text_of_sheet(&read).map_err(|faults: Faults| {
                let lines: Vec<String> = faults.shown.iter().map(ToString::to_string).collect();
                Failure::new(Exit::Usage, faults_of(&name, &lines, faults.more))
            })?;
            let spec = ImportSpec { sheet: sheet.to_owned(), file: name, dry_run, why: message };
            let report: ImportReport = client.call(Method::POST, "/v1/clients", &spec).await?;
            settings.talk().result(&report, ImportReport::words)
        }
        ClientCommand::List => {
            let report: ClientsReport = client.get("/v1/clients").await?;
            settings.talk().result(&report, ClientsReport::words)
        }
        ClientCommand::Show { client: name } => {
            let report: ClientReport =
                client.call(Method::POST, "/v1/clients/show", &ClientSpec { client: name }).await?;
            settings.talk().result(&report, ClientReport::words)
        }
        ClientCommand::Boots { client: whose } => {
            let in_full = whose.is_some();
            let boots: Vec<BootEntry> =
                client.call(Method::POST, "/v1/clients/boots", &BootsSpec { client: whose }).await?;
            settings.talk().result(&boots, |boots| boots_words(boots, in_full))
        }
        ClientCommand::Wake { clients } => {
            let woken: Vec<ClientName> = client.call(Method::POST, "/v1/clients/wake", &WakeSpec { clients }).await?;
            let words = |woken: &Vec<ClientName>| {
                woken.iter().map(|name| format!("{name} was told to wake")).collect::<Vec<_>>().join("\n")
            };
            settings.talk().result(&woken, words)
        }
        ClientCommand::Explain { client: name } => {
            let spec = ClientSpec { client: name };
            let report: ExplainReport = client.call(Method::POST, "/v1/clients/explain", &spec).await?;
            settings.talk().result(&report, ExplainReport::words)
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |error: std::io::Error| {
        let exit = if error.kind() == ErrorKind::NotFound { Exit::Absent } else { Exit::Failed };
        Failure::new(exit, error.to_string())
    };
    let input: Box<dyn Read> = match path == Path::new(STANDARD_INPUT) {
        true => Box::new(std::io::stdin().lock()),
        false => Box::new(File::open(path).map_err(failed)?),
    };
    let mut read = Vec::new();
    input.take(SHEET_BYTES_MAX as u64 + 1).read_to_end(&mut read).map_err(failed)?;
    if read.len() > SHEET_BYTES_MAX {
        let message = format!("it is no list of workstations: it has more than {}", bytes(SHEET_BYTES_MAX as u64));
        return Err(Failure::new(Exit::Usage, message));
    }
    Ok(read)
}
