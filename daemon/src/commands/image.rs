//! `icbd image`.

use anyhow::Result;
use http::Method;
use icbd_image::{ImageName, ImageRef};

use super::tunnel::Tunnel;
use super::{boot_package, edits, follow, interrupted, moves, publish};
use crate::args::ImageCommand;
use crate::control::Client;
use crate::evictions::{PinReport, PinSpec};
use crate::failure::{Exit, Failure};
use crate::images::{ImageSummary, VersionSummary, find_image, find_version};
use crate::moves::Verb;
use crate::output::{bytes, counted, plain, table, time};
use crate::replicas::{ReplicateResult, ReplicateSpec, StreamKind};
use crate::scrubs::{SealResult, SealSpec};
use crate::settings::{Role, Settings};
use crate::verify::{VerifyResult, VersionBody};

pub(crate) async fn run(settings: &Settings, command: ImageCommand) -> Result<()> {
    match command {
        ImageCommand::Publish(args) => publish::publish(settings, args).await,
        ImageCommand::List { image } => list(settings, image).await,
        ImageCommand::Show { version } => show(settings, &version).await,
        ImageCommand::Verify { version } => verify(settings, version).await,
        ImageCommand::Edit(args) => edits::edit(settings, args).await,
        ImageCommand::Save(args) => edits::save(settings, args).await,
        ImageCommand::Discard(args) => edits::discard(settings, args).await,
        ImageCommand::BootPackage(args) => boot_package::run(settings, args).await,
        ImageCommand::Prune(args) => edits::prune(settings, args).await,
        ImageCommand::Deploy(args) => moves::deploy(settings, args).await,
        ImageCommand::Rollback(args) => moves::roll_back(settings, args).await,
        ImageCommand::Retire { version, force, made } => {
            moves::retire(settings, Verb::Retire { version, force }, made).await
        }
        ImageCommand::Pin { version, until, message } => {
            pin(settings, PinSpec { version, until, remove: false, why: message }).await
        }
        ImageCommand::Unpin { version, message } => {
            pin(settings, PinSpec { version, until: None, remove: true, why: message }).await
        }
        ImageCommand::Seal { version, message } => seal(settings, SealSpec { version, why: message }).await,
        ImageCommand::Replicate { version, from, stream, compress, via } => {
            replicate(settings, ReplicateSpec { version, from, stream, compress, via, socket: None }).await
        }
        ImageCommand::Restore { version, made } => {
            moves::make(settings, Verb::Restore { version }, made, moves::name).await
        }
    }
}

async fn pin(settings: &Settings, spec: PinSpec) -> Result<()> {
    let mut client = Client::connect(&settings.sockets(Role::Cache)).await?;
    let done: PinReport = client.call(Method::POST, "/v1/pin", &spec).await?;
    settings.talk().result(&done, PinReport::words)
}

async fn seal(settings: &Settings, spec: SealSpec) -> Result<()> {
    let mut client = Client::connect(&settings.sockets(Role::Cache)).await?;
    let sealed: Option<SealResult> = follow(&mut client, "/v1/seal", &spec, settings.talk()).await?;
    let sealed = sealed
        .ok_or_else(|| interrupted("the version is being sealed all the same; `icbd status` tells when it is"))?;
    settings.talk().result(&sealed, SealResult::words)
}

async fn replicate(settings: &Settings, mut spec: ReplicateSpec) -> Result<()> {
    spec.check()?;
    let mut client = Client::connect(&settings.sockets(Role::Master)).await?;
    let tunnel = match &spec.via {
        Some(via) => Some(Tunnel::open(via, &spec.target()?).await?),
        None => None,
    };
    spec.socket = tunnel.as_ref().map(|tunnel| tunnel.socket.clone());
    let kept = match spec.stream {
        StreamKind::Blocks => "what came so far is kept: the same command goes on with it",
        StreamKind::Btrfs => "nothing of what came is kept",
    };
    let done = follow(&mut client, "/v1/replicate", &spec, settings.talk()).await;
    if let Some(tunnel) = tunnel {
        tunnel.close().await;
    }
    let done: Option<ReplicateResult> = done?;
    let done = done.ok_or_else(|| interrupted(kept))?;
    settings.talk().result(&done, ReplicateResult::words)
}

async fn images(settings: &Settings) -> Result<Vec<ImageSummary>> {
    Client::connect(&settings.sockets(Role::Master)).await?.get("/v1/images").await
}

async fn list(settings: &Settings, image: Option<ImageName>) -> Result<()> {
    let images = images(settings).await?;
    match image {
        None => settings.talk().result(&images, |images| {
            let row = |image: &ImageSummary| {
                let deployed = image.deployed.map_or("-".to_owned(), |number| format!("{}@{number}", image.name));
                vec![image.name.to_string(), deployed, image.versions.len().to_string(), time(image.changed)]
            };
            table(&["IMAGE", "DEPLOYED", ">VERSIONS", "CHANGED"], images.iter().map(row))
        }),
        Some(name) => settings.talk().result(&find_image(&images, &name)?.versions, |versions| {
            let image = images.iter().find(|image| image.name == name);
            let row = |version: &VersionSummary| {
                let state = image.map_or_else(|| version.state.to_string(), |image| image.state(version));
                let size = bytes(version.data_bytes);
                vec![version.version.to_string(), state, size, time(version.published), version.note.clone()]
            };
            table(&["IMAGE@N", "STATE", ">SIZE", "PUBLISHED", "NOTE"], versions.iter().map(row))
        }),
    }
}

async fn show(settings: &Settings, wanted: &ImageRef) -> Result<()> {
    let images = images(settings).await?;
    let image = find_image(&images, &wanted.image)?;
    settings.talk().result(find_version(&images, wanted)?, |version| {
        let signers = if version.signers.is_empty() { "nobody".to_owned() } else { version.signers.join(", ") };
        let lines = [
            ("version", version.version.to_string()),
            ("state", image.state(version)),
            ("published", time(version.published)),
            ("size", format!("{} ({} bytes)", bytes(version.data_bytes), version.data_bytes)),
            ("root", version.root.to_string()),
            ("parent", version.parent.map_or("-".to_owned(), |parent| parent.to_string())),
            ("serial", version.serial.to_string()),
            ("signed by", signers),
            ("note", plain(&version.note)),
        ];
        let damage = version.damage.iter().map(|what| ("damaged", plain(what)));
        let withheld = version.withheld.iter().map(|why| ("withheld", plain(why)));
        let lines = lines.into_iter().chain(damage).chain(withheld);
        lines.map(|(key, value)| format!("{key:<10} {value}").trim_end().to_owned()).collect::<Vec<_>>().join("\n")
    })
}

async fn verify(settings: &Settings, version: ImageRef) -> Result<()> {
    let mut client = Client::connect(&settings.sockets(Role::Master)).await?;
    let body = VersionBody { version };
    let result: Option<VerifyResult> = follow(&mut client, "/v1/verify", &body, settings.talk()).await?;
    let result = result.ok_or_else(|| interrupted("the version was not verified to its end"))?;
    settings.talk().result(&result, |result| {
        let signer =
            result.signer.as_deref().map_or("signed by no trusted key".to_owned(), |key| format!("signed by {key}"));
        let root = result.root;
        let of = result.all_blocks.map_or(String::new(), |all| format!(" of {all}"));
        let mut lines = vec![format!(
            "{}: {}{of} blocks in {:.1} s, root {root}, {signer}",
            result.version, result.blocks, result.seconds
        )];
        if result.all_blocks.is_some() {
            lines.push("the others are not here: each is compared when it comes".to_owned());
        }
        lines.extend(result.faults.iter().map(|fault| format!("! {}", plain(fault))));
        lines.join("\n")
    })?;
    match result.fault_count {
        0 => Ok(()),
        count => {
            let message = format!("{} is not what was published: {}", result.version, counted(count, "fault"));
            Err(Failure::new(Exit::Verification, message).into())
        }
    }
}
