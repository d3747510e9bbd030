//! Deployments at a time to come, as they travel and are shown.

use icbd_image::{Timestamp, VersionId};
use icbd_master::{Plan, Repository};
use serde::{Deserialize, Serialize};

use crate::audit::{Audit, Change};
use crate::control::Peer;
use crate::failure::{Exit, Failure};
use crate::orders::When;
use crate::output::plain;

/// What is to be deployed when, or is not to be any more.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "lowercase")]
pub(crate) enum PlanSpec {
    /// `at` as it was typed; times without a zone are on the master's clock.
    Plan {
        version: VersionId,
        at: String,
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
}

/// What became of a plan.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PlanResult {
    #[serde(flatten)]
    pub plan: PlanReport,
    pub cancelled: bool,
    /// What had been planned for the image before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<PlanReport>,
}

impl PlanSpec {
    /// Notes the plan, or forgets it, with both ends of it in the audit log.
    pub(crate) fn make(&self, repository: &Repository, audit: &Audit, peer: &Peer) -> anyhow::Result<PlanResult> {
        let (what, why) = match self {
            PlanSpec::Plan { version, at, why } => (format!("image deploy {version} --at {at}"), why),
            PlanSpec::Cancel { version, why } => (format!("image deploy {version} --cancel"), why),
        };
        let change = Change { what: &what, why };
        let done = audit.begin(peer, change).and_then(|()| self.act(repository, peer));
        audit.record(peer, change, &done);
        done
    }

    fn act(&self, repository: &Repository, peer: &Peer) -> anyhow::Result<PlanResult> {
        match self {
            PlanSpec::Plan { version, at, why } => {
                super::known(repository, &version.image, Some(version.number))?;
                let zone = jiff::tz::TimeZone::system();
                let at = at.parse::<When>().map_err(anyhow::Error::from).and_then(|when| when.next(&zone))?;
                let at = Timestamp { seconds: at.as_second(), nanoseconds: 0 };
                let (version, by, why) = (version.clone(), peer.user.clone(), why.clone());
                let plan = Plan { version, at, by, why, failed: None };
                let replaces = repository.plan(&plan).map_err(Failure::from)?.map(PlanReport::from);
                Ok(PlanResult { plan: plan.into(), cancelled: false, replaces })
            }
            PlanSpec::Cancel { version, .. } => {
                let cancelled = repository.cancel_plan(version).map_err(Failure::from)?.ok_or_else(|| {
                    let plans = repository.plans().unwrap_or_default();
                    let planned = plans.iter().find(|plan| plan.version.image == version.image);
                    let hint = planned.map_or(String::new(), |plan| format!("; {} is", plan.version));
                    Failure::new(Exit::Absent, format!("{version} is not planned to be deployed{hint}"))
                })?;
                Ok(PlanResult { plan: cancelled.into(), cancelled: true, replaces: None })
            }
        }
    }
}

impl PlanResult {
    pub(crate) fn words(&self) -> String {
        let PlanReport { version, at, .. } = &self.plan;
        match (self.cancelled, &self.replaces) {
            (true, _) => format!("{version} is no longer to be deployed at {at}"),
            (false, None) => format!("{version} will be deployed at {at}"),
            (false, Some(before)) => {
                format!("{version} will be deployed at {at}, and not {} at {}", before.version, before.at)
            }
        }
    }
}

impl PlanReport {
    /// For the status.
    pub(crate) fn words(&self) -> String {
        let PlanReport { version, at, by, why, failed } = self;
        let why = if why.is_empty() { String::new() } else { format!(": {}", plain(why)) };
        match failed {
            None => format!("{version} will be deployed at {at} ({by}{why})"),
            Some(failed) => format!(
                "! {version} was to be deployed at {at} ({by}{why}) and was not: {}; deploy it, or forget it with \
                 `icbd image deploy {version} --cancel`",
                plain(failed)
            ),
        }
    }
}

impl From<Plan> for PlanReport {
    fn from(Plan { version, at, by, why, failed }: Plan) -> PlanReport {
        PlanReport { version, at, by, why, failed }
    }
}
