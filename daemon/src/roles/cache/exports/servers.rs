//! Which server of disks is meant, and the others that there may be.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use icbd_export::{Lio, OfferName, Offered, Plan, Server, ServerError, Tgt};

use super::{Exports, disks};
use crate::settings::IscsiServer;

impl Exports {
    /// The server that is meant, or that there is. Blocks.
    pub(super) fn server(&self) -> Result<Box<dyn Server>, ServerError> {
        let which = *self.iscsi.read().unwrap_or_else(PoisonError::into_inner);
        let [tgt, lio] = all();
        match which {
            IscsiServer::Tgt => Ok(tgt),
            IscsiServer::Lio => Ok(lio),
            IscsiServer::Off => Err(ServerError::Off { key: "export.iscsi" }),
            IscsiServer::Auto => {
                let is_absent = || matches!(tgt.offered(), Err(ServerError::NotInstalled { .. }));
                Ok(if Lio::default().is_there() && is_absent() { lio } else { tgt })
            }
        }
    }
}

/// Another server, and what it serves.
pub(super) type Other = (Box<dyn Server>, Vec<Offered>);

fn all() -> [Box<dyn Server>; 2] {
    [Box::<Tgt>::default(), Box::<Lio>::default()]
}

/// Nobody is logged in to such a server.
pub(super) fn is_down(error: &ServerError) -> bool {
    matches!(error, ServerError::NotRunning { .. } | ServerError::NotInstalled { .. } | ServerError::NotLoaded { .. })
}

/// What a server serves of ours, in order.
pub(super) fn ours(server: &dyn Server, is_ours: impl Fn(&Offered) -> bool) -> Result<Vec<Offered>, ServerError> {
    let mut ours: Vec<Offered> = server.offered()?.into_iter().filter(is_ours).collect();
    ours.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(ours)
}

/// Servers besides this one that serve something of ours.
pub(super) fn others(
    server: Option<&(dyn Server + 'static)>,
    is_ours: impl Fn(&Offered) -> bool + Copy,
) -> Result<Vec<Other>, ServerError> {
    let name = server.map(|server| server.name());
    let mut others = Vec::new();
    for other in all().into_iter().filter(|other| Some(other.name()) != name) {
        match ours(&*other, is_ours) {
            Ok(offered) if !offered.is_empty() => others.push((other, offered)),
            Err(error) if !is_down(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(others)
}

/// Has them serve nothing any more but what is in use, which it gives.
pub(super) fn take_back(others: Vec<Other>, stale: &BTreeSet<OfferName>) -> Result<Vec<Offered>, ServerError> {
    let mut kept = Vec::new();
    for (other, offered) in others {
        let mut plan = Plan::new(offered, &[], stale);
        kept.append(&mut plan.kept_in_use);
        let outcome = plan.carry_out(&*other);
        disks::log(&outcome);
        if let Some((_, error)) = outcome.failed.into_iter().next() {
            return Err(error);
        }
    }
    Ok(kept)
}
