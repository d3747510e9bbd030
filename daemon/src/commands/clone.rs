//! `icbd clone`.

use anyhow::Result;
use http::Method;

use crate::args::{CloneArgs, CloneCommand};
use crate::clones::{CloneSpec, ClonesReport};
use crate::control::Client;
use crate::settings::{Role, Settings};

pub(crate) async fn run(settings: &Settings, command: CloneCommand) -> Result<()> {
    let mut client = Client::connect(&settings.sockets(Role::Cache)).await?;
    match command.change() {
        None => {
            let report: ClonesReport = client.get("/v1/clones").await?;
            settings.talk().result(&report, ClonesReport::words)
        }
        Some((change, CloneArgs { client: workstation, version, message })) => {
            let spec = CloneSpec { client: workstation, version, change, why: message };
            client.call(Method::POST, "/v1/clones", &spec).await
        }
    }
}
