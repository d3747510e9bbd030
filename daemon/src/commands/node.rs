//! `icbd node`.

use anyhow::Result;
use http::Method;

use crate::args::NodeCommand;
use crate::control::Client;
use crate::edits::{NodeReport, ReleaseSpec};
use crate::settings::{Role, Settings};

pub(crate) async fn run(settings: &Settings, command: NodeCommand) -> Result<()> {
    let mut client = Client::connect(&settings.sockets(Role::Master)).await?;
    match command {
        NodeCommand::List => {
            let nodes: Vec<NodeReport> = client.get("/v1/nodes").await?;
            settings.talk().result(&nodes, |nodes| NodeReport::list(nodes))
        }
        NodeCommand::Remove { node, force, message } => {
            let spec = ReleaseSpec { force, why: message };
            client.call(Method::POST, &format!("/v1/nodes/{node}/release"), &spec).await
        }
    }
}
