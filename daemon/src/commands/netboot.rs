//! `icbd netboot`.

use anyhow::Result;
use http::Method;
use icbd_export::{BootNetwork, Dialect, interfaces, snippet};

use crate::args::NetbootCommand;
use crate::control::Client;
use crate::failure::{Exit, Failure};
use crate::netboot::{NetbootReport, NetbootSpec, NetbootState};
use crate::settings::{Role, Settings};

pub(crate) async fn run(settings: &Settings, command: NetbootCommand) -> Result<()> {
    let (enable, message) = match command {
        NetbootCommand::Snippet { dialect, network } => return print(settings, dialect.into(), network.as_deref()),
        NetbootCommand::Show => {
            let report: NetbootReport =
                Client::connect(&settings.sockets(Role::Cache)).await?.get("/v1/netboot").await?;
            return settings.talk().result(&report, NetbootReport::words);
        }
        NetbootCommand::Enable { message } => (true, message),
        NetbootCommand::Disable { message } => (false, message),
    };
    let mut client = Client::connect(&settings.sockets(Role::Cache)).await?;
    let spec = NetbootSpec { enable, why: message };
    let report: NetbootReport = client.call(Method::POST, "/v1/netboot", &spec).await?;
    settings.talk().result(&report, NetbootReport::words)?;
    match report.state {
        NetbootState::Failed | NetbootState::Starting => {
            let message = match enable {
                true => {
                    "it is kept, and begins once what is wrong is mended; `icbd netboot show` says how that goes on"
                }
                false => "it is not wholly ended yet; `icbd netboot show` says how that goes on",
            };
            Err(Failure::new(Exit::Partly, message).into())
        }
        NetbootState::Off | NetbootState::Serving => Ok(()),
    }
}

/// Of the configuration alone: no daemon has to run.
fn print(settings: &Settings, dialect: Dialect, of: Option<&str>) -> Result<()> {
    let (netboot, listen) = settings.netboot();
    let refused = |error: String| Failure::new(Exit::Refused, error);
    let interfaces = interfaces().map_err(|error| refused(format!("cannot list network interfaces: {error}")))?;
    let networks = BootNetwork::all(&netboot.networks, &interfaces, &listen);
    let mut networks = networks.map_err(|error| refused(error.to_string()))?;
    networks.retain(|network| of.is_none_or(|of| network.interface == of));
    if networks.is_empty() {
        let which = of.map_or("no [[network]]".to_owned(), |of| format!("no [[network]] with interface = {of:?}"));
        let message = format!("the configuration names {which}; `icbd help netboot enable` says more");
        return Err(Failure::new(Exit::Absent, message).into());
    }
    let snippets: Vec<String> = networks.iter().map(|network| snippet(dialect, network)).collect();
    settings.talk().result(&snippets, |snippets| snippets.join("\n"))
}
