//! One round over the sources for one thing: whom to ask next, and when to give up.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::Sources;
use super::member::{Admission, Member};
use crate::error::{Failure, FetchError, SourceError, Wanted};
use crate::settings::Settings;

/// Which sources were asked, and what they said.
#[derive(Debug, Default)]
pub(super) struct Round {
    /// The source being asked and how often it was.
    current: Option<(usize, Admission, u32)>,
    failures: Vec<(usize, SourceError)>,
}

impl Round {
    /// The source to ask now: again the current one, else the first in order that is neither passed
    /// over nor failed in this round. Those known to have this very thing wrong come last.
    pub(super) fn choose(
        &mut self,
        sources: &Sources,
        wanted: Wanted,
        has_it_wrong: impl Fn(&Member) -> bool,
    ) -> Result<Arc<Member>, FetchError> {
        if let Some((_, admission, _)) = &self.current {
            return Ok(admission.member().clone());
        }
        let mut order: Vec<usize> = (0..sources.members.len()).filter(|place| !self.has_failed(*place)).collect();
        order.sort_by_key(|place| has_it_wrong(&sources.members[*place]));
        let mut passed_over = Vec::new();
        for place in &order {
            // The poll of the listing has nobody waiting and may take the time to try a silent source.
            let alternative = wanted != Wanted::Listing
                && order.iter().any(|other| other != place && sources.members[*other].is_online());
            match sources.members[*place].admit(alternative) {
                Ok(admission) => {
                    self.current = Some((*place, admission, 0));
                    return Ok(sources.members[*place].clone());
                }
                Err(error) => passed_over.push((*place, error)),
            }
        }
        self.failures.append(&mut passed_over);
        Err(self.give_up(sources, wanted))
    }

    /// The error with which to end now that nobody is left to ask.
    fn give_up(&mut self, sources: &Sources, wanted: Wanted) -> FetchError {
        if self.failures.is_empty() {
            return FetchError::NoSource { wanted };
        }
        let name = |place: usize| sources.members[place].name().to_owned();
        let failures = std::mem::take(&mut self.failures).into_iter();
        let failures = failures.map(|(place, error)| Failure { source: name(place), error }).collect();
        FetchError::Failed { wanted, failures }
    }

    /// Whether the source that is being asked went offline meanwhile.
    pub(super) fn revoked(&self) -> Option<SourceError> {
        self.current.as_ref().and_then(|(_, admission, _)| admission.revoked())
    }

    /// Takes note of a failure of the current source. Waits a moment if it is to be asked again, and
    /// returns whether it is not.
    pub(super) async fn failed(&mut self, settings: &Settings, error: SourceError) -> bool {
        let Some((place, admission, tries)) = &mut self.current else { return true };
        *tries += 1;
        if *tries < error.tries(settings.tries_max) {
            let source = admission.member().name();
            tracing::debug!(source, %error, tries, "request failed, trying again");
            sleep(back_off(settings, *tries)).await;
            return false;
        }
        admission.failed(&error);
        self.failures.push((*place, error));
        self.current = None;
        true
    }

    /// The current source gave something good: the round begins anew, with the same source.
    pub(super) fn progressed(&mut self) {
        self.failures.clear();
        if let Some((_, admission, tries)) = &mut self.current {
            *tries = 0;
            admission.member().succeeded();
        }
    }

    /// Looks for the best source anew at the next [`Round::choose`].
    pub(super) fn release(&mut self) {
        self.current = None;
    }

    pub(super) fn place(&self) -> Option<usize> {
        self.current.as_ref().map(|(place, ..)| *place)
    }

    fn has_failed(&self, place: usize) -> bool {
        self.failures.iter().any(|(failed, _)| *failed == place)
    }
}

/// A random part of a span that doubles with each try ("full jitter"): requests that failed together
/// do not come back together.
pub(super) fn back_off(settings: &Settings, tries: u32) -> Duration {
    let doubled = 2u32.saturating_pow(tries.saturating_sub(1));
    let span = settings.back_off_min.saturating_mul(doubled).min(settings.back_off_max);
    // Without a random number the whole span is as good.
    let part = getrandom::u32().unwrap_or(u32::MAX);
    span.mul_f64(f64::from(part) / f64::from(u32::MAX))
}
