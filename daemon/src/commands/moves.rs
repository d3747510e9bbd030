//! `icbd image deploy`, `rollback`, `retire` and `restore`.

use anyhow::Result;
use http::Method;

use super::publish;
use crate::args::{DeployArgs, MadeArgs, RollbackArgs};
use crate::control::Client;
use crate::moves::{LocalResult, LocalSpec, MoveResult, MoveSpec, PlanResult, PlanSpec, Verb};
use crate::settings::{Role, Settings};

pub(super) async fn deploy(settings: &Settings, args: DeployArgs) -> Result<()> {
    let DeployArgs { version, at, needs, cancel, made } = args;
    let why = made.message.clone();
    let plan = match (&at, needs) {
        (None, None) if cancel => PlanSpec::Cancel { version, why },
        (None, None) => return make(settings, Verb::Deploy { version }, made, name).await,
        _ => PlanSpec::Plan { version, at, needs, why },
    };
    let mut client = Client::connect(&settings.sockets(Role::Master)).await?;
    let done: PlanResult = client.call(Method::POST, "/v1/plan", &plan).await?;
    settings.talk().result(&done, PlanResult::words)
}

pub(super) async fn roll_back(settings: &Settings, args: RollbackArgs) -> Result<()> {
    let RollbackArgs { image, to, local, clear, made } = args;
    if !local {
        return make(settings, Verb::Rollback { image, to }, made, |done| format!("{}{}", done.change(), done.users()))
            .await;
    }
    let spec = LocalSpec { image, to, clear, why: made.message };
    let mut client = Client::connect(&settings.sockets(Role::Cache)).await?;
    let done: LocalResult = client.call(Method::POST, "/v1/local", &spec).await?;
    if let Some(number) = done.deployed.filter(|_| !done.complete) {
        let image = &done.image;
        settings
            .talk()
            .say(format_args!("! {image}@{number} is here only in part; what is missing waits for the master"));
    }
    settings.talk().result(&done, LocalResult::words)
}

/// Moves a version from one state to the next; `show` says what is printed of it.
pub(super) async fn make(
    settings: &Settings,
    verb: Verb,
    made: MadeArgs,
    show: impl FnOnce(&MoveResult) -> String,
) -> Result<()> {
    settings.talk().result(&ask(settings, verb, made).await?, show)
}

/// Says what the bare name means without the version, if that is nothing.
pub(super) async fn retire(settings: &Settings, verb: Verb, made: MadeArgs) -> Result<()> {
    let done = ask(settings, verb, made).await?;
    if done.deployed_before.is_some() && done.deployed.is_none() {
        let image = &done.version.version.image;
        settings.talk().say(format_args!("! nothing of {image} is deployed now: nobody boots it by its name"));
    }
    settings.talk().result(&done, name)
}

async fn ask(settings: &Settings, verb: Verb, made: MadeArgs) -> Result<MoveResult> {
    let spec = MoveSpec { verb, why: made.message };
    match publish::daemon_for(settings, &made.repo).await? {
        Some(mut client) => client.call(Method::POST, "/v1/move", &spec).await,
        None => publish::move_directly(&made.repo, &spec),
    }
}

pub(super) fn name(done: &MoveResult) -> String {
    format!("{}{}", done.version.version, done.users())
}
