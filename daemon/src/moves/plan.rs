//! Deployments at a time to come, or once caches are ready, as they travel and are shown.

use icbd_image::{Timestamp, VersionId};
use icbd_master::{Lacking, MasterError, Plan, Repository};
use icbd_wire::Readiness;
use serde::{Deserialize, Serialize};

use super::{MoveSpec, Verb};
use crate::audit::{Audit, Change};
use crate::control::Peer;
use crate::failure::{Exit, Failure};
use crate::orders::When;
use crate::output::plain;

/// So many nodes are named.
const NODES_SHOWN_MAX: usize = 8;

/// What is to be deployed when, or is not to be any more.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "lowercase")]
pub(crate) enum PlanSpec {
    Plan {
        version: VersionId,
        /// As it was typed; times without a zone are on the master's clock. `None`: at once.
        at: Option<String>,
        /// Not before every node has so much of it.
        #[serde(default, with = "crate::readiness")]
        needs: Option<Readiness>,
        why: String,
    },
    Cancel {
        version: VersionId,
        why: String,
    },
}

/// A version that is to be deployed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlanReport {
    pub version: VersionId,
    pub at: Timestamp,
    pub by: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// Why it was not deployed when its time had come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    #[serde(default, with = "crate::readiness", skip_serializing_if = "Option::is_none")]
    pub needs: Option<Readiness>,
    /// The nodes that do not have that yet, and why not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<String>,
}

/// What became of a plan.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PlanResult {
    #[serde(flatten)]
    pub plan: PlanReport,
    pub cancelled: bool,
    /// Nothing had to be waited for.
    #[serde(default)]
    pub deployed: bool,
    /// What had been planned for the image before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<PlanReport>,
}

impl PlanSpec {
    /// Notes the plan, or forgets it, with both ends of it in the audit log.
    pub(crate) fn make(&self, repository: &Repository, audit: &Audit, peer: &Peer) -> anyhow::Result<PlanResult> {
        let (what, why) = match self {
            PlanSpec::Plan { version, at, needs, why } => {
                let at = at.as_ref().map_or(String::new(), |at| format!(" --at {at}"));
                let needs = needs.map_or(String::new(), |needs| format!(" --needs {needs}"));
                (format!("image deploy {version}{at}{needs}"), why)
            }
            PlanSpec::Cancel { version, why } => (format!("image deploy {version} --cancel"), why),
        };
        let change = Change { what: &what, why };
        let done = audit.begin(peer, change).and_then(|()| self.act(repository, audit, peer));
        audit.record(peer, change, &done);
        done
    }

    fn act(&self, repository: &Repository, audit: &Audit, peer: &Peer) -> anyhow::Result<PlanResult> {
        match self {
            PlanSpec::Plan { version, at, needs, why } => {
                super::known(repository, &version.image, Some(version.number))?;
                let zone = jiff::tz::TimeZone::system();
                let then = |at: &String| at.parse::<When>().map_err(anyhow::Error::from)?.next(&zone);
                let seconds = at.as_ref().map(then).transpose()?.map(jiff::Timestamp::as_second);
                let at = Timestamp { seconds: seconds.unwrap_or(crate::output::now().seconds), nanoseconds: 0 };
                let (by, why) = (peer.user.clone(), why.clone());
                let plan = Plan { version: version.clone(), at, by, why: why.clone(), failed: None, needs: *needs };
                let replaces = repository.plan(&plan).map_err(Failure::from)?;
                let replaces = replaces.map(|before| PlanReport::of(before, repository));
                let plan = PlanReport::of(plan, repository);
                let deployed = seconds.is_none() && plan.waits_for.is_empty();
                if deployed {
                    let deploy = MoveSpec { verb: Verb::Deploy { version: version.clone() }, why };
                    deploy.make(repository, audit, peer)?;
                }
                Ok(PlanResult { plan, cancelled: false, deployed, replaces })
            }
            PlanSpec::Cancel { version, .. } => {
                let cancelled = repository.cancel_plan(version).map_err(Failure::from)?.ok_or_else(|| {
                    let plans = repository.plans().unwrap_or_default();
                    let planned = plans.iter().find(|plan| plan.version.image == version.image);
                    let hint = planned.map_or(String::new(), |plan| format!("; {} is", plan.version));
                    Failure::new(Exit::Absent, format!("{version} is not planned to be deployed{hint}"))
                })?;
                let plan = PlanReport::of(cancelled, repository);
                Ok(PlanResult { plan, cancelled: true, deployed: false, replaces: None })
            }
        }
    }
}

impl PlanResult {
    pub(crate) fn words(&self) -> String {
        let PlanReport { version, waits_for, .. } = &self.plan;
        let when = self.plan.when();
        let waits = if waits_for.is_empty() { String::new() } else { format!("\nwaits for {}", waits_for.join("; ")) };
        match (self.cancelled, self.deployed, &self.replaces) {
            (true, ..) => format!("{version} is no longer to be deployed {when}"),
            (_, true, _) => version.to_string(),
            (_, _, None) => format!("{version} will be deployed {when}{waits}"),
            (_, _, Some(before)) => {
                format!("{version} will be deployed {when}, and not {} {}{waits}", before.version, before.when())
            }
        }
    }
}

impl PlanReport {
    pub(crate) fn of(plan: Plan, repository: &Repository) -> PlanReport {
        let lacking = waits_for(&plan, repository).unwrap_or_else(|error| {
            tracing::error!(version = %plan.version, %error, "cannot see which nodes are ready");
            Vec::new()
        });
        let mut shown: Vec<String> = lacking.iter().take(NODES_SHOWN_MAX).map(reason).collect();
        if lacking.len() > NODES_SHOWN_MAX {
            shown.push(format!("{} more", lacking.len() - NODES_SHOWN_MAX));
        }
        let Plan { version, at, by, why, failed, needs } = plan;
        PlanReport { version, at, by, why, failed, needs, waits_for: shown }
    }

    /// `at …`, `when every cache server has it sealed, from … on`.
    pub(crate) fn when(&self) -> String {
        match self.needs {
            None => format!("at {}", self.at),
            Some(needs) => format!("when every cache server has {}, from {} on", phrase(needs), self.at),
        }
    }

    /// For the status.
    pub(crate) fn words(&self) -> String {
        let PlanReport { version, by, why, failed, waits_for, .. } = self;
        let (when, why) = (self.when(), if why.is_empty() { String::new() } else { format!(": {}", plain(why)) });
        let waits =
            if waits_for.is_empty() { String::new() } else { format!("; waits for {}", plain(&waits_for.join("; "))) };
        match failed {
            None => format!("{version} will be deployed {when} ({by}{why}){waits}"),
            Some(failed) => format!(
                "! {version} was to be deployed {when} ({by}{why}) and was not: {}; deploy it, or forget it with \
                 `icbd image deploy {version} --cancel`",
                plain(failed)
            ),
        }
    }
}

/// The nodes that a plan waits for.
pub(crate) fn waits_for(plan: &Plan, repository: &Repository) -> Result<Vec<Lacking>, MasterError> {
    plan.needs.map_or(Ok(Vec::new()), |needs| repository.lacking(&plan.version, needs))
}

fn reason(node: &Lacking) -> String {
    match (node.silent_since, node.has) {
        (Some(since), _) => format!(
            "{} (not heard of since {since}; if it is gone for good, `icbd node remove {}`)",
            node.name, node.name
        ),
        (None, None) => format!("{} (it has too little of it)", node.name),
        (None, Some(has)) => format!("{} (it has {})", node.name, phrase(has)),
    }
}

fn phrase(readiness: Readiness) -> &'static str {
    match readiness {
        Readiness::Boot => "what boots read of it",
        Readiness::Complete => "all of it",
        Readiness::Sealed => "it sealed",
    }
}
