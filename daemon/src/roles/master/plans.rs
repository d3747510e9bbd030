//! Carries out what is planned when its time has come, late rather than never: a master that was down does it when it
//! starts. What cannot be done is kept, with the reason, until somebody sees it.

use std::sync::Arc;
use std::time::Duration;

use icbd_master::Plan;
use tokio_util::sync::CancellationToken;

use super::state::Master;
use crate::control::Peer;
use crate::moves::{MoveSpec, Verb, waits_for};
use crate::output;

/// A clock that is set meanwhile is noticed so soon.
const LOOK_MAX: Duration = Duration::from_secs(30);

/// Until `stop`.
pub(super) async fn run(master: Arc<Master>, stop: CancellationToken) {
    loop {
        let due = master.clone();
        let wait = tokio::task::spawn_blocking(move || carry_out(&due)).await.unwrap_or(LOOK_MAX);
        tokio::select! {
            () = stop.cancelled() => return,
            () = master.planned.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Deploys what is due; how long nothing will be.
fn carry_out(master: &Master) -> Duration {
    let plans = master.repository.plans().unwrap_or_else(|error| {
        tracing::error!(%error, "cannot see what is planned");
        Vec::new()
    });
    let now = output::now();
    let mut wait = LOOK_MAX;
    for plan in plans.into_iter().filter(|plan| plan.failed.is_none()) {
        match u64::try_from(plan.at.seconds - now.seconds) {
            // Not before its second has begun.
            Ok(seconds) if seconds > 0 => {
                wait = wait.min(Duration::from_secs(seconds) - Duration::from_nanos(now.nanoseconds.into()));
            }
            _ => match waits_for(&plan, &master.repository) {
                Ok(lacking) if lacking.is_empty() => deploy(master, plan),
                // Whatever they report wakes us.
                Ok(_) => {}
                Err(error) => tracing::error!(version = %plan.version, %error, "cannot see which nodes are ready"),
            },
        }
    }
    wait
}

fn deploy(master: &Master, Plan { version, by, why, .. }: Plan) {
    let spec = MoveSpec { verb: Verb::Deploy { version: version.clone() }, why };
    // The one who planned it, long gone from this machine.
    let peer = Peer { uid: u32::MAX, user: by, pid: 0 };
    let Err(error) = spec.make(&master.repository, &master.audit, &peer) else { return };
    let error = format!("{error:#}");
    tracing::error!(%version, error, "a planned deployment was not made");
    if let Err(error) = master.repository.plan_failed(&version, &error) {
        tracing::error!(%version, %error, "cannot note that a planned deployment was not made");
    }
}
