//! `icbd check`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use super::block_on;
use crate::check::Check;
use crate::control::Client;
use crate::failure::{Exit, Failure};
use crate::output::Talk;
use crate::report::Report;
use crate::settings::{Role, Settings};

/// Those who run checks end them after ten seconds; a daemon answers at once.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Prints one line about the daemons of this machine. Whatever goes wrong is said in that line.
pub(crate) fn run(settings: &Settings) -> ExitCode {
    let asked = block_on(async {
        tokio::time::timeout(ANSWER_MAX, ask(settings)).await.unwrap_or_else(|_| {
            let message = format!("the daemon did not answer within {} s", ANSWER_MAX.as_secs());
            Err(Failure::new(Exit::Unreachable, message).into())
        })
    });
    print(settings.talk(), &asked.unwrap_or_else(|error| Check::failed(&Failure::of(&error))))
}

/// Says that the check could not even begin.
pub(crate) fn cannot(failure: &Failure) -> ExitCode {
    print(Talk { json: false, quiet: false }, &Check::failed(failure))
}

async fn ask(settings: &Settings) -> Result<Check> {
    let sockets = settings.sockets(Role::Cache);
    let mut client = Client::connect(&sockets).await?;
    let mut check = Check::of(&client.get::<Report>("/v1/status").await?);
    for socket in sockets.iter().filter(|socket| *socket != client.socket()) {
        if let Some(mut other) = Client::find(std::slice::from_ref(socket)).await? {
            check = check.and(Check::of(&other.get::<Report>("/v1/status").await?));
        }
    }
    Ok(check)
}

fn print(talk: Talk, check: &Check) -> ExitCode {
    // Who does not read the line has the code.
    let _ = talk.result(check, Check::line);
    check.level.code().into()
}
