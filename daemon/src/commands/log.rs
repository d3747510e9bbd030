//! `icbd log`: the audit log.

use anyhow::Result;
use icbd_image::Timestamp;

use crate::audit::Entry;
use crate::control::Client;
use crate::output::{self, table};
use crate::settings::{Role, Settings};

/// Prints who changed what and why, oldest first; with `since` only from then on.
pub(crate) async fn run(settings: &Settings, since: Option<Timestamp>) -> Result<()> {
    let mut client = Client::connect(&settings.sockets(Role::Master)).await?;
    let mut entries: Vec<Entry> = client.get("/v1/audit").await?;
    if let Some(since) = since.map(output::time) {
        // In one form, and so in the order of time.
        entries.retain(|entry| entry.time >= since);
    }
    settings.talk().result(&entries, |entries| {
        let row = |entry: &Entry| {
            let Entry { time, user, what, why, result, .. } = entry.clone();
            vec![time, user, what, why, result]
        };
        table(&["TIME", "USER", "WHAT", "WHY", "RESULT"], entries.iter().map(row))
    })
}
