//! What on a machine keeps icbd from working as it should, each with its remedy.
//!
//! The machine itself is asked, and not the daemon: it works before the first start, and while that hangs.

mod firewall;
mod machine;
mod networks;
mod ports;
mod sources;
mod store;

use serde::Serialize;

use crate::failure::Failure;
use crate::output::{counted, plain};
use crate::roles::cache;
use crate::settings::{CacheSettings, MasterSettings};

/// How grave a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Ok,
    /// Nothing is wrong with it, and somebody may want to know.
    Note,
    /// It works, and not as well as it could.
    Warning,
    /// Something does not work.
    Wrong,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What it is about, in a word.
    pub about: &'static str,
    pub verdict: Verdict,
    pub what: String,
    /// What to do.
    pub remedy: Option<String>,
}

impl Finding {
    pub(crate) fn ok(about: &'static str, what: impl Into<String>) -> Finding {
        Finding { about, verdict: Verdict::Ok, what: what.into(), remedy: None }
    }

    pub(crate) fn note(about: &'static str, what: impl Into<String>) -> Finding {
        Finding { about, verdict: Verdict::Note, what: what.into(), remedy: None }
    }

    pub(crate) fn warning(about: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { about, verdict: Verdict::Warning, what: what.into(), remedy: Some(remedy.into()) }
    }

    pub(crate) fn wrong(about: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { about, verdict: Verdict::Wrong, what: what.into(), remedy: Some(remedy.into()) }
    }

    /// What an error says, with its remedy.
    pub(crate) fn error(about: &'static str, verdict: Verdict, error: impl ToString) -> Finding {
        Finding { about, verdict, what: error.to_string(), remedy: None }
    }
}

/// All that was looked at.
#[derive(Debug, Serialize)]
pub(crate) struct DoctorReport {
    pub findings: Vec<Finding>,
}

/// What the machine is, or is to be.
pub(crate) enum Patient {
    Master(Box<MasterSettings>),
    Cache(Box<CacheSettings>),
    /// Why that is not known.
    Unknown(Failure),
}

/// Looks at everything that concerns it.
pub(crate) async fn examine(patient: Patient) -> anyhow::Result<DoctorReport> {
    let mut findings = machine::look();
    let ports = match patient {
        Patient::Master(settings) => {
            findings.extend(store::look(&settings.repo, None));
            ports::of_master(&settings)
        }
        Patient::Cache(settings) => {
            findings.extend(store::look(&settings.store, settings.reserve_bytes));
            findings.push(store::look_at_mount(&settings.mount));
            findings.extend(sources::look(&settings).await);
            let of_exports = settings.clone();
            findings.extend(tokio::task::spawn_blocking(move || cache::examine_exports(&of_exports)).await?);
            findings.extend(networks::look(&settings).await?);
            ports::of_cache(&settings)
        }
        Patient::Unknown(failure) => {
            findings.push(Finding::error("config", Verdict::Wrong, failure));
            Vec::new()
        }
    };
    findings.extend(ports::look(&ports));
    findings.extend(firewall::look(&ports));
    Ok(DoctorReport { findings })
}

impl DoctorReport {
    pub(crate) fn wrong_count(&self) -> u64 {
        self.count(Verdict::Wrong)
    }

    fn count(&self, verdict: Verdict) -> u64 {
        self.findings.iter().filter(|finding| finding.verdict == verdict).count() as u64
    }

    pub(crate) fn words(&self) -> String {
        let lines = self.findings.iter().flat_map(|finding| {
            let word = match finding.verdict {
                Verdict::Ok => "ok",
                Verdict::Note => "note",
                Verdict::Warning => "WARNING",
                Verdict::Wrong => "WRONG",
            };
            let line = format!("{word:<8} {:<9} {}", finding.about, plain(&finding.what));
            let remedy = finding.remedy.as_ref().map(|remedy| format!("{:18} → {}", "", plain(remedy)));
            [line].into_iter().chain(remedy)
        });
        let (wrong, warnings) = (self.wrong_count(), self.count(Verdict::Warning));
        let sum = format!("{wrong} wrong, {}", counted(warnings, "warning"));
        lines.chain([sum]).collect::<Vec<_>>().join("\n")
    }
}
