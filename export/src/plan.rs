//! From what a server serves to what it should.

use std::collections::BTreeMap;

use crate::{Offer, OfferName, Offered, Server, ServerError, Withdrawal};

/// What is to be done for a server to serve what it should and, of what is icbd's, nothing else.
///
/// What somebody uses is never taken away: neither when it is wanted no more, nor to have it served otherwise.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    steps: Vec<Step>,
    /// Wanted no more, or otherwise, but for those who still use it.
    pub kept_in_use: Vec<Offered>,
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Offer(Offer),
    Allow(Offer),
    Renew(Offer, Withdrawal),
    Withdraw(OfferName),
}

/// Whether what a server has open is still what it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    Valid,
    /// What it was opened from is gone: whoever uses it gets errors, until it is opened anew and they log in again.
    Stale,
}

/// What became of a plan.
#[derive(Debug, Default)]
pub struct Outcome {
    pub offered: Vec<OfferName>,
    pub changed: Vec<OfferName>,
    pub withdrawn: Vec<OfferName>,
    /// What failed; the rest was done.
    pub failed: Vec<(OfferName, ServerError)>,
}

impl Plan {
    pub fn new(offered: Vec<Offered>, wanted: &[Offer], opened: Opened) -> Plan {
        let mut there: BTreeMap<OfferName, Offered> =
            offered.into_iter().map(|offered| (offered.name.clone(), offered)).collect();
        let mut plan = Plan::default();
        for offer in wanted {
            let step = match there.remove(&offer.name) {
                None => Step::Offer(offer.clone()),
                Some(_) if opened == Opened::Stale => Step::Renew(offer.clone(), Withdrawal::Forced),
                Some(offered) if offered.is(offer) && offered.clients == offer.clients => continue,
                Some(offered) if offered.is(offer) => Step::Allow(offer.clone()),
                Some(offered) if !offered.sessions.is_empty() => {
                    plan.kept_in_use.push(offered);
                    continue;
                }
                // It was not put together to its end, or not by us.
                Some(_) => Step::Renew(offer.clone(), Withdrawal::Unused),
            };
            plan.steps.push(step);
        }
        for (name, offered) in there {
            match offered.sessions.is_empty() {
                true => plan.steps.push(Step::Withdraw(name)),
                false => plan.kept_in_use.push(offered),
            }
        }
        plan
    }

    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Does it, step by step; one that fails keeps the others from nothing.
    pub fn carry_out(self, server: &dyn Server) -> Outcome {
        let mut outcome = Outcome::default();
        for step in self.steps {
            let (name, done, list) = match step {
                Step::Offer(offer) => (offer.name.clone(), server.offer(&offer), &mut outcome.offered),
                Step::Allow(offer) => {
                    let allowed = server.allow(&offer.name, &offer.clients);
                    (offer.name, allowed, &mut outcome.changed)
                }
                Step::Renew(offer, how) => {
                    let renewed = server.withdraw(&offer.name, how).and_then(|()| server.offer(&offer));
                    (offer.name, renewed, &mut outcome.changed)
                }
                Step::Withdraw(name) => {
                    let withdrawn = server.withdraw(&name, Withdrawal::Unused);
                    (name, withdrawn, &mut outcome.withdrawn)
                }
            };
            match done {
                Ok(()) => list.push(name),
                Err(error) => outcome.failed.push((name, error)),
            }
        }
        outcome
    }
}

impl Offered {
    /// Whether it is what is wanted, whoever may use it.
    fn is(&self, offer: &Offer) -> bool {
        self.disk.as_ref() == Some(&offer.disk) && self.is_read_only == offer.name.client.is_none()
    }
}
