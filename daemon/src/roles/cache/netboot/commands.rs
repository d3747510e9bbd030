//! What the control socket of a cache server answers about network boot.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use icbd_export::{BootNetwork, Dhcp, Dnsmasq, Loaders, LoadersError, Rival, check_signed, rivals};

use crate::audit::Change;
use crate::control::Peer;
use crate::failure::{Exit, Failure};
use crate::netboot::{NetbootReport, NetbootSpec};
use crate::roles::cache::state::CacheServer;

/// Another DHCP server answers within this, or there is none.
const RIVAL_MAX: Duration = Duration::from_secs(3);

pub(in super::super) async fn show(server: Arc<CacheServer>) -> anyhow::Result<NetbootReport> {
    Ok(server.netboot.report())
}

/// Begins or ends it, with both ends of it in the audit log.
pub(in super::super) async fn change(
    server: Arc<CacheServer>,
    peer: Peer,
    spec: NetbootSpec,
) -> anyhow::Result<NetbootReport> {
    let what = spec.to_string();
    let change = Change { what: &what, why: &spec.why };
    server.audit.both_ends(&peer, change, act(&server, spec.enable)).await
}

async fn act(server: &Arc<CacheServer>, enable: bool) -> anyhow::Result<NetbootReport> {
    if enable {
        check(server).await?;
    }
    server.netboot.enabled.set(enable).map_err(Failure::from)?;
    server.netboot.settle().await;
    Ok(server.netboot.report())
}

/// Fails if it could not begin now.
async fn check(server: &CacheServer) -> anyhow::Result<()> {
    if server.netboot.settings().networks.is_empty() {
        let message = "the configuration names no network; add, for each on which workstations boot:\n[[network]]\n\
                       interface = \"eth1\"\ndhcp = \"proxy\"    # or \"full\" with a pool, or \"off\"\nand run `icbd config reload`";
        return Err(Failure::new(Exit::Refused, message).into());
    }
    let networks = server.netboot.networks(&server.plane.listen)?;
    Dnsmasq::check().map_err(Failure::from)?;
    let refused = |error: LoadersError| Failure::new(Exit::Refused, error.to_string());
    Loaders::default().check().map_err(refused)?;
    if server.netboot.settings().secure_boot {
        check_signed().map_err(refused)?;
    }
    let full = networks.into_iter().filter(|network| network.dhcp == Dhcp::Full && !network.is_relayed);
    // All at once: a site with a dozen VLANs does not wait a dozen times.
    try_join_all(full.map(alone)).await?;
    Ok(())
}

/// Fails if somebody else gives addresses on a network.
async fn alone(network: BootNetwork) -> anyhow::Result<()> {
    let interface = network.interface.clone();
    let found = tokio::task::spawn_blocking(move || rivals(&interface, RIVAL_MAX)).await?;
    let found = found.map_err(|error| {
        let message = format!("cannot ask on {} whether there is another DHCP server: {error}", network.interface);
        Failure::new(Exit::Failed, message)
    })?;
    let other = found.iter().find(|rival| rival.server != network.address && rival.address.is_some());
    let Some(Rival { server, .. }) = other else { return Ok(()) };
    let message = format!(
        "{server} gives addresses on {} already, and two DHCP servers get in each other's way; end that one, or write \
         dhcp = \"proxy\" for this [[network]]",
        network.interface
    );
    Err(Failure::new(Exit::Refused, message).into())
}
