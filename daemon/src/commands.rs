//! The commands that are no daemons, one file a noun.

pub(crate) mod bench;
mod boot_package;
pub(crate) mod bundle;
pub(crate) mod check;
pub(crate) mod client;
pub(crate) mod clone;
pub(crate) mod config;
pub(crate) mod doctor;
mod edits;
pub(crate) mod export;
pub(crate) mod generate;
pub(crate) mod image;
pub(crate) mod key;
pub(crate) mod log;
mod moves;
pub(crate) mod netboot;
pub(crate) mod node;
pub(crate) mod prefetch;
pub(crate) mod profile;
mod publish;
pub(crate) mod status;
pub(crate) mod store;
mod tunnel;

use crate::control::{Client, Event, Heard};
use crate::failure::{Exit, Failure};
use crate::output::{ProgressBar, Talk};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Runs a command's future: a command waits for one thing at a time.
pub(crate) fn block_on<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}

/// Has the daemon do something long, showing its progress; `None` when the user pressed Ctrl-C.
async fn follow<T: DeserializeOwned>(
    client: &mut Client,
    path: &str,
    body: &impl Serialize,
    talk: Talk,
) -> anyhow::Result<Option<T>> {
    let mut bar = ProgressBar::new(talk);
    let hear = |event| {
        if let Event::Progress(progress) = event {
            bar.show(&progress);
        }
    };
    match client.run(path, body, hear).await? {
        Heard::Done(result) => Ok(Some(serde_json::from_value(result)?)),
        Heard::Interrupted => Ok(None),
    }
}

fn interrupted(what: &str) -> anyhow::Error {
    Failure::new(Exit::Interrupted, format!("interrupted; {what}")).into()
}
