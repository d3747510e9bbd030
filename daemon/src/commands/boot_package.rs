//! `icbd image boot-package`: the next version of an image, with what a workstation needs to boot it by the network.
//!
//! It is made out of a working copy, as an administrator would by hand, by programs of the Linux that is in the image. Those
//! run here and not in the daemon: as whoever typed the command, with what that person may do.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};
use http::Method;
use tokio::process::Command;

use super::publish::tell_skipped;
use super::{follow, interrupted};
use crate::args::BootPackageArgs;
use crate::control::Client;
use crate::edits::{EditReport, EditSpec, SaveSpec};
use crate::failure::{Exit, Failure};
use crate::roles::master::PublishResult;
use crate::settings::{Role, Settings};

/// What does it, and what it puts into the initramfs.
const MAKE: &str = include_str!("../../../mount-helpers/boot-package.sh");
const HOOK: &str = include_str!("../../../mount-helpers/initramfs/hook");
const SCRIPT: &str = include_str!("../../../mount-helpers/initramfs/script");

pub(super) async fn run(settings: &Settings, args: BootPackageArgs) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        let message = "programs of the image are run in it, which needs root; run this as root on the master itself";
        return Err(Failure::new(Exit::Refused, message).into());
    }
    let image = args.image.clone();
    let mut client = Client::connect(&settings.sockets(Role::Master)).await?;
    let edit = EditSpec { image: image.clone(), why: "for a boot package".to_owned() };
    let copy: EditReport = client.call(Method::POST, "/v1/edit", &edit).await?;
    settings.talk().say(format_args!("making the boot package of {image} (half a minute)"));
    let kernel = match make(&copy.path, &args).await {
        Ok(kernel) => kernel,
        Err(error) => {
            // It was begun for this alone.
            client.call::<serde_json::Value>(Method::POST, "/v1/discard", &edit).await?;
            return Err(error);
        }
    };
    let note = args.message.unwrap_or_else(|| format!("boot package with Linux {kernel}"));
    let spec = SaveSpec { image: image.clone(), note, sign: None };
    let saved: Option<PublishResult> = follow(&mut client, "/v1/save", &spec, settings.talk()).await?;
    let left = format!("the working copy is there still: `icbd image save {image}` or `discard {image}`");
    let saved = saved.ok_or_else(|| interrupted(&left))?;
    tell_skipped(settings, &saved);
    settings.talk().result(&saved, |saved| saved.version.to_string())
}

/// Makes it in a working copy; the kernel's version.
async fn make(copy: &Path, args: &BootPackageArgs) -> Result<String> {
    let folder = tempfile_folder()?;
    let (hook, script) = (folder.path().join("hook"), folder.path().join("script"));
    std::fs::write(&hook, HOOK)
        .and_then(|()| std::fs::write(&script, SCRIPT))
        .context("cannot write a temporary file")?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", MAKE, "boot-package.sh"]);
    command.arg(copy).arg(args.rw.to_string()).arg(&args.cmdline);
    command.arg(args.kernel.as_deref().unwrap_or_default()).arg(args.driver.join(" "));
    command.env("HOOK", &hook).env("SCRIPT", &script).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.context("cannot run unshare; install the package util-linux")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let message = format!("no boot package was made of {}: {}", args.image, said.trim());
        return Err(Failure::new(Exit::Refused, message).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A folder that goes with the command.
fn tempfile_folder() -> Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix("icbd-boot-package.").tempdir().context("cannot make a temporary folder")
}
