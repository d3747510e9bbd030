//! Whether sources answer, and whether their clocks and this one agree.

use std::time::{Duration, SystemTime};

use icbd_fetch::{HttpSource, Source, SourceError, TimeOuts};

use super::{Finding, Verdict};
use crate::output::seconds;
use crate::settings::{CacheSettings, SourceSettings};

/// Times of two machines that differ by more are confused in logs, orders and signatures.
const APART_MAX: Duration = Duration::from_secs(5);

pub(super) async fn look(settings: &CacheSettings) -> Vec<Finding> {
    let authorities = match settings.trust.authorities() {
        Ok(authorities) => authorities,
        Err(failure) => return vec![Finding::error("source", Verdict::Wrong, failure)],
    };
    let mut findings = Vec::new();
    for SourceSettings { url, .. } in &settings.sources {
        match HttpSource::known_by(url, TimeOuts::default(), &authorities) {
            Ok(source) => findings.extend(of(&source).await),
            Err(error) => findings.push(Finding::error("source", Verdict::Wrong, error)),
        }
    }
    findings.extend(trust(settings));
    findings
}

async fn of(source: &HttpSource) -> Vec<Finding> {
    let name = source.name();
    match source.time().await {
        Ok(time) => {
            let answers = Finding::ok("source", format!("{name} answers"));
            [answers].into_iter().chain(time.map(|time| clock(name, SystemTime::now(), time))).collect()
        }
        Err(error) => {
            let remedy = match &error {
                SourceError::Refused { .. } => "name this machine in its `allow`, under [master] or [serve]",
                _ => "look there with `icbd status`; between the two, ports and firewalls: docs/ports.md",
            };
            vec![Finding::wrong("source", format!("{name}: {error}"), remedy)]
        }
    }
}

fn clock(name: &str, here: SystemTime, there: SystemTime) -> Finding {
    let (apart, which) = match here.duration_since(there) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(behind) => (behind.duration(), "behind"),
    };
    if apart <= APART_MAX {
        return Finding::ok("clock", format!("this machine's agrees with that of {name}"));
    }
    let what = format!("this machine's is {} {which} that of {name}", seconds(apart.as_secs()));
    Finding::warning("clock", what, "have both keep time: timedatectl set-ntp true")
}

fn trust(settings: &CacheSettings) -> Option<Finding> {
    match settings.trust.load() {
        Ok(trust) if trust.require && trust.keys.is_empty() => Some(Finding::wrong(
            "trust",
            "trust.require is set and no key is trusted: no version can be used",
            "icbd key trust FILE.pub",
        )),
        Ok(trust) if trust.keys.is_empty() => Some(Finding::note(
            "trust",
            "no key is trusted: whatever a source says is believed; `icbd key` changes that",
        )),
        Ok(_) => None,
        Err(error) => Some(Finding::error("trust", Verdict::Wrong, format!("{error:#}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_are_apart_are_told() {
        let here = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
        assert_eq!(clock("m", here, here - APART_MAX).verdict, Verdict::Ok);
        let said = |there| clock("m", here, there).what;
        assert_eq!(said(here - Duration::from_secs(90)), "this machine's is 90 s ahead of that of m");
        assert!(said(here + Duration::from_secs(7200)).contains("behind that of m"));
    }
}
