//! What a workstation is told when it asks for its boot script.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::{CacheServer, IscsiReader, Lab, Output, get, run_bounded};

const TOOL_DEADLINE: Duration = Duration::from_secs(120);

/// A client's own disk, as an initiator of that client's name finds it.
#[derive(Debug, Clone)]
pub struct BootTarget {
    pub portal: String,
    pub name: String,
    pub initiator: String,
}

impl BootTarget {
    /// Boots a client, as far as its boot script.
    pub fn ask(cache: &CacheServer, image: &str, client: &str) -> Result<BootTarget> {
        let (status, script) = boot_script(cache, &format!("{image}?client={client}"))?;
        ensure!(status == 200, "{status}: {script}");
        BootTarget::of(&script)
    }

    /// What a boot script says.
    pub fn of(script: &str) -> Result<BootTarget> {
        let line = |start: &str| {
            let line = script.lines().find_map(|line| line.strip_prefix(start));
            line.map(str::to_owned).with_context(|| format!("no {start:?} in {script:?}"))
        };
        let disk = line("sanboot iscsi:")?;
        let (address, rest) = disk.split_once("::").context("no address")?;
        let (port, rest) = rest.split_once(':').context("no port")?;
        let (lun, name) = rest.split_once(':').context("no LUN")?;
        ensure!(script.starts_with("#!ipxe\n") && lun == "1", "{script}");
        let initiator = line("set initiator-iqn ")?;
        Ok(BootTarget { portal: format!("{address}:{port}"), name: name.to_owned(), initiator })
    }

    /// For QEMU.
    pub fn options(&self) -> String {
        let BootTarget { portal, name, initiator } = self;
        format!("driver=iscsi,transport=tcp,portal={portal},target={name},lun=1,initiator-name={initiator}")
    }

    /// For `icbd bench storm`, which logs in by the client's name.
    pub fn storm_target(&self) -> String {
        format!("{}?initiator={}", self.url(), self.initiator)
    }

    pub fn url(&self) -> String {
        format!("iscsi://{}/{}/1", self.portal, self.name)
    }

    /// What qemu-io does there, in one session.
    pub fn io(&self, commands: &[&str]) -> Result<Output> {
        let mut io = Command::new("qemu-io");
        io.args(["--image-opts", &self.options()]).args(commands.iter().flat_map(|command| ["-c", *command]));
        run_bounded(io, TOOL_DEADLINE)
    }

    pub fn read(&self, lab: &Lab) -> Result<Vec<u8>> {
        let copy = lab.unique("copy");
        let mut convert = Command::new("qemu-img");
        convert.args(["convert", "--image-opts", "-O", "raw", &self.options()]).arg(&copy);
        run_bounded(convert, TOOL_DEADLINE)?.ok()?;
        Ok(std::fs::read(copy)?)
    }

    /// A workstation that is logged in until it is dropped.
    pub fn log_in(&self) -> Result<IscsiReader> {
        IscsiReader::start_as(&self.initiator, &self.url())
    }
}

/// The answer to `/boot/QUERY` of a cache that serves over TCP.
pub fn boot_script(cache: &CacheServer, query: &str) -> Result<(u16, String)> {
    let answer = get(listens(cache)?, &format!("/boot/{query}"))?;
    Ok((answer.status, String::from_utf8(answer.body)?))
}

/// Where a cache serves over TCP.
pub fn listens(cache: &CacheServer) -> Result<SocketAddr> {
    Ok(cache.status()?["listen"][0].as_str().context("it listens nowhere")?.parse()?)
}
