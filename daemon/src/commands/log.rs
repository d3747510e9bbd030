//! `icbd log`: the audit log.

use anyhow::Result;

use crate::audit::Entry;
use crate::control::Client;
use crate::output::table;
use crate::settings::{Role, Settings};

/// Prints who changed what, oldest first.
pub(crate) async fn run(settings: &Settings) -> Result<()> {
    let mut client = Client::connect(&settings.sockets(Role::Master)).await?;
    let entries: Vec<Entry> = client.get("/v1/audit").await?;
    settings.talk().result(&entries, |entries| {
        let row =
            |entry: &Entry| vec![entry.time.clone(), entry.user.clone(), entry.what.clone(), entry.result.clone()];
        table(&["TIME", "USER", "WHAT", "RESULT"], entries.iter().map(row))
    })
}
