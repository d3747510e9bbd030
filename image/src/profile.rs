//! Boot profiles: which blocks of a version cold fills read, in what order, learned from real boots.
//!
//! A profile is a *set* of observations. Merging two is union, so it does not matter who tells whom what,
//! in which order and how often; everything else is derived. It is bounded (the newest
//! [`Profile::OBSERVATIONS_MAX`] of at most [`Observation::BYTES_MAX`] each), and it is advice: a wrong or
//! damaged one costs time, never a byte, so whoever cannot read one goes on without it.

mod boot;
mod carry;
mod format;
mod observation;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::Root;
pub use boot::BootRun;
pub use format::ProfileError;
pub use observation::{Observation, Origin, SiteId, Touch};

/// What cold fills of the version with one root read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    root: Root,
    /// By start and site: the newest are last.
    observations: BTreeMap<(u64, SiteId), Observation>,
}

impl Profile {
    /// Boots of two months of working days; with more, one that is unlike the others would count for ever less.
    pub const OBSERVATIONS_MAX: usize = 50;
    /// The longest encoded profile.
    pub const BYTES_MAX: usize = 4 << 20;
    /// From so many observations of its own on, what was carried over from other versions does not count.
    pub const OWN_MIN: usize = 3;

    /// A profile that knows nothing of the version with this root.
    pub fn new(root: Root) -> Profile {
        Profile { root, observations: BTreeMap::new() }
    }

    pub fn root(&self) -> Root {
        self.root
    }

    /// All observations, the oldest first.
    pub fn observations(&self) -> impl DoubleEndedIterator<Item = &Observation> {
        self.observations.values()
    }

    pub fn is_empty(&self) -> bool {
        self.observations.is_empty()
    }

    /// Observations of this very version.
    pub fn own_count(&self) -> usize {
        self.observations().filter(|seen| seen.origin() == Origin::Own).count()
    }

    /// Adds an observation; the oldest goes when there are too many.
    ///
    /// Of two with one site and start, which an honest site does not make, the greater stays: any rule
    /// will do on which all agree.
    pub fn insert(&mut self, observation: Observation) {
        match self.observations.entry((observation.started(), observation.site())) {
            Entry::Vacant(free) => drop(free.insert(observation)),
            Entry::Occupied(mut known) if *known.get() < observation => drop(known.insert(observation)),
            Entry::Occupied(_) => {}
        }
        while self.observations.len() > Profile::OBSERVATIONS_MAX {
            self.observations.pop_first();
        }
    }

    /// Takes over what `other` knows of the same version; whether that was anything new.
    ///
    /// Idempotent, commutative and associative. A profile of another version changes nothing.
    pub fn merge(&mut self, other: &Profile) -> bool {
        if other.root != self.root {
            return false;
        }
        let before = self.clone();
        other.observations().cloned().for_each(|observation| self.insert(observation));
        *self != before
    }
}

#[cfg(test)]
mod tests;
