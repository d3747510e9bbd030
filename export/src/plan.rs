//! From what a server serves to what it should.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Clients, Offer, OfferName, Offered, Server, ServerError, Withdrawal};

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
    /// `stale`: what the server opened from something that is gone. Whoever uses it gets errors until it is opened anew and they log
    /// in again.
    pub fn new(offered: Vec<Offered>, wanted: &[Offer], stale: &BTreeSet<OfferName>) -> Plan {
        let mut there: BTreeMap<OfferName, Offered> =
            offered.into_iter().map(|offered| (offered.name.clone(), offered)).collect();
        let mut plan = Plan::default();
        for offer in wanted {
            let step = match there.remove(&offer.name) {
                None => Step::Offer(offer.clone()),
                Some(_) if stale.contains(&offer.name) => Step::Renew(offer.clone(), Withdrawal::Forced),
                Some(offered) if offered.is(offer) && offered.clients == Clients::These(offer.clients.clone()) => {
                    continue;
                }
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
            match offered {
                offered if offered.sessions.is_empty() => plan.steps.push(Step::Withdraw(name)),
                // Who uses it gets errors until then.
                Offered { disk: Some(disk), clients: Clients::These(clients), .. } if stale.contains(&name) => {
                    plan.steps.push(Step::Renew(Offer { name, disk, clients }, Withdrawal::Forced));
                }
                offered => plan.kept_in_use.push(offered),
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

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;
    use crate::Session;

    fn offer(name: &str, disk: &str) -> Offer {
        let clients = vec!["10.1.2.0/24".parse().unwrap()];
        Offer { name: format!("iqn.2026-01.net.icbd:{name}").parse().unwrap(), disk: disk.into(), clients }
    }

    fn offered(offer: &Offer, users: usize) -> Offered {
        let session = Session { initiator: "pc".into(), addresses: Vec::new() };
        Offered {
            name: offer.name.clone(),
            disk: Some(offer.disk.clone()),
            clients: Clients::These(offer.clients.clone()),
            is_read_only: true,
            sessions: vec![session; users],
        }
    }

    #[test]
    fn nothing_is_taken_from_who_uses_it() {
        let (one, two, other) = (offer("lab.1", "/1"), offer("lab.2", "/2"), offer("lab.2", "/3"));
        let valid = |there: &[Offered], wanted: &[Offer]| Plan::new(there.to_vec(), wanted, &BTreeSet::new());
        assert!(valid(&[offered(&one, 0)], from_ref(&one)).is_empty());
        assert_eq!(valid(&[], from_ref(&one)).steps, [Step::Offer(one.clone())]);
        assert_eq!(valid(&[offered(&one, 0)], &[]).steps, [Step::Withdraw(one.name.clone())]);
        assert_eq!(
            valid(&[offered(&two, 0)], from_ref(&other)).steps,
            [Step::Renew(other.clone(), Withdrawal::Unused)]
        );
        for kept in [valid(&[offered(&one, 1)], &[]), valid(&[offered(&two, 1)], &[other])] {
            assert!(kept.is_empty() && kept.kept_in_use.len() == 1, "{kept:?}");
        }
        let let_in = Offered { clients: Clients::Others, ..offered(&one, 1) };
        assert_eq!(valid(&[let_in], from_ref(&one)).steps, [Step::Allow(one.clone())]);
        // What was opened from something that is gone is opened anew, wanted or used; nobody else is logged out for it.
        let there = [offered(&one, 1), offered(&two, 1)];
        let both = BTreeSet::from([one.name.clone(), two.name.clone()]);
        let renewed = |stale: &BTreeSet<OfferName>| Plan::new(there.to_vec(), from_ref(&two), stale).steps;
        assert_eq!(renewed(&BTreeSet::from([two.name.clone()])), [Step::Renew(two.clone(), Withdrawal::Forced)]);
        assert_eq!(
            renewed(&both),
            [Step::Renew(two.clone(), Withdrawal::Forced), Step::Renew(one.clone(), Withdrawal::Forced)]
        );
    }
}
