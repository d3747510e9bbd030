//! `icbd status`.

use anyhow::Result;
use serde_json::Value;

use crate::control::Client;
use crate::report::{Report, show};
use crate::settings::{Role, Settings};

/// Shows how the daemon is; as text, all that run here.
pub(crate) async fn run(settings: &Settings, all: bool) -> Result<()> {
    let sockets = settings.sockets(Role::Cache);
    let mut client = Client::connect(&sockets).await?;
    // As it was sent: keys of a newer daemon are kept.
    let first: Value = client.get("/v1/status").await?;
    let mut others = Vec::new();
    if !settings.json {
        for socket in sockets.iter().filter(|socket| *socket != client.socket()) {
            if let Some(mut client) = Client::find(std::slice::from_ref(socket)).await? {
                others.push(client.get::<Report>("/v1/status").await?);
            }
        }
    }
    let text = |first: &Value| match serde_json::from_value::<Report>(first.clone()) {
        Ok(report) => {
            let reports: Vec<String> = std::iter::once(&report).chain(&others).map(|r| show(r, all)).collect();
            reports.join("\n\n")
        }
        Err(_) => first.to_string(),
    };
    settings.talk().result(&first, text)
}
