//! Who uses which version: what nodes say of themselves, and what is being sent just now.
//!
//! Silence never ends a use. A node that is not heard of becomes *unknown* and is shown with the time it was last
//! seen; only its own word, or an administrator who names it, lets go of what it used.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use icbd_image::{NodeUuid, Root, Serial, Timestamp, VersionId, VersionState};
use icbd_wire::{NodeReport, Readiness, ReadyReport};

use crate::repository::guard;
use crate::{MasterError, Repository};

/// Nodes that are remembered; others are heard by nobody. A record has about a kilobyte.
const NODES_MAX: usize = 4096;
/// A node polls every other second; one that was silent for so long may be anywhere.
const UNKNOWN_AFTER_SECONDS: i64 = 60;
/// So much of "last seen" a kill of the master may cost.
const SEEN_KEPT_SECONDS: i64 = 60;
/// A version is being sent until so long after its last block was: fetchers ask piece by piece.
const SENT_LINGER: Duration = Duration::from_secs(10);

/// A node, as it was heard last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    pub id: NodeUuid,
    pub name: String,
    pub address: String,
    pub seen: Timestamp,
    /// The versions that it uses, and how many programs have each open there.
    pub uses: BTreeMap<Serial, u32>,
}

/// A node that does not have as much of a version as is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lacking {
    pub name: String,
    pub has: Option<Readiness>,
    /// It was last seen then, and may be anywhere.
    pub silent_since: Option<Timestamp>,
}

/// What is known of users.
#[derive(Debug, Default)]
pub(crate) struct Users {
    nodes: Mutex<BTreeMap<NodeUuid, Heard>>,
    sent: Arc<Sent>,
}

#[derive(Debug, Clone)]
struct Heard {
    record: NodeRecord,
    /// How much of which versions it has; nothing until it was heard since the start.
    ready: BTreeMap<Serial, Readiness>,
    /// As it is in the catalogue.
    kept_seconds: i64,
}

/// Versions that are read for somebody.
#[derive(Debug, Default)]
struct Sent(Mutex<HashMap<Root, Reading>>);

#[derive(Debug)]
struct Reading {
    now: usize,
    last: Instant,
}

/// Says that a version is read for somebody: as long as it lives, and a little longer, the version stays.
#[derive(Debug)]
pub struct Hold {
    sent: Arc<Sent>,
    root: Root,
}

impl Users {
    pub(crate) fn new(nodes: BTreeMap<NodeUuid, NodeRecord>) -> Users {
        let heard = |(id, record): (NodeUuid, NodeRecord)| {
            (id, Heard { kept_seconds: record.seen.seconds, record, ready: BTreeMap::new() })
        };
        Users { nodes: Mutex::new(nodes.into_iter().map(heard).collect()), sent: Arc::default() }
    }
}

impl NodeRecord {
    /// Whether it was silent for too long to say anything of it.
    pub fn is_unknown(&self, now: Timestamp) -> bool {
        now.seconds - self.seen.seconds > UNKNOWN_AFTER_SECONDS
    }
}

impl Repository {
    /// Takes note of what a node says of itself; whether it has more or less of some version than before. What changes
    /// for the uses of versions is durable when this returns.
    pub fn heard(&self, report: &NodeReport, ready: &ReadyReport, address: IpAddr) -> Result<bool, MasterError> {
        let (now, address) = (self.now(), address.to_string());
        let mut nodes = guard(&self.users.nodes);
        let known = nodes.get(&report.node);
        if known.is_none() && nodes.len() >= NODES_MAX {
            tracing::warn!(node = report.name, "there are too many nodes; this one is not remembered");
            return Ok(false);
        }
        let mut uses: BTreeMap<Serial, u32> = report.uses.iter().copied().collect();
        if !report.is_whole {
            let before = known.into_iter().flat_map(|known| &known.record.uses);
            before.for_each(|(serial, clients)| _ = uses.entry(*serial).or_insert(*clients));
        }
        let record = NodeRecord { id: report.node, name: report.name.clone(), address, seen: now, uses };
        let is_kept = known.is_some_and(|known| {
            let versions = |record: &NodeRecord| record.uses.keys().copied().collect::<Vec<_>>();
            let is_same = (&known.record.name, &known.record.address) == (&record.name, &record.address);
            is_same
                && versions(&known.record) == versions(&record)
                && now.seconds - known.kept_seconds < SEEN_KEPT_SECONDS
        });
        let kept_seconds = match (is_kept, known) {
            (true, Some(known)) => known.kept_seconds,
            _ => {
                guard(&self.catalogue).put_node(&record)?;
                now.seconds
            }
        };
        let ready: BTreeMap<Serial, Readiness> = ready.versions.iter().copied().collect();
        let is_other = known.is_none_or(|known| known.ready != ready || known.record.is_unknown(now));
        nodes.insert(report.node, Heard { record, ready, kept_seconds });
        Ok(is_other)
    }

    /// The nodes that do not have so much of a version, or of which nobody knows, by name.
    pub fn lacking(&self, version: &VersionId, needs: Readiness) -> Result<Vec<Lacking>, MasterError> {
        let (serial, now) = (self.version(version)?.serial(), self.now());
        let nodes = guard(&self.users.nodes);
        let mut lacking: Vec<Lacking> = nodes
            .values()
            .map(|heard| Lacking {
                name: heard.record.name.clone(),
                has: heard.ready.get(&serial).copied(),
                silent_since: heard.record.is_unknown(now).then_some(heard.record.seen),
            })
            .filter(|node| node.silent_since.is_some() || node.has.is_none_or(|has| has < needs))
            .collect();
        lacking.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(lacking)
    }

    /// All nodes that were ever heard, by name.
    pub fn nodes(&self) -> Vec<NodeRecord> {
        let mut nodes: Vec<_> = guard(&self.users.nodes).values().map(|heard| heard.record.clone()).collect();
        nodes.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        nodes
    }

    /// How many programs have a version open, by what nodes said last.
    pub fn clients(&self, version: &VersionId) -> Result<u64, MasterError> {
        let serial = self.version(version)?.serial();
        Ok(self.nodes().iter().filter_map(|node| node.uses.get(&serial)).map(|count| u64::from(*count)).sum())
    }

    /// Forgets a node, and lets go of what it used. It is heard anew when it says something.
    pub fn forget_node(&self, id: NodeUuid) -> Result<(), MasterError> {
        let mut nodes = guard(&self.users.nodes);
        guard(&self.catalogue).remove_node(id)?;
        nodes.remove(&id);
        Ok(())
    }

    /// Who uses a version, or may use it, in words; nodes in `ignored` count as none.
    pub fn users(&self, version: &VersionId, ignored: &[NodeUuid]) -> Result<Vec<String>, MasterError> {
        let record = self.version(version)?;
        let retired = self.catalogue(|catalogue| catalogue.retired_at(version))?;
        let is_retired = matches!(record.state, VersionState::Retiring | VersionState::Archived);
        let now = self.now();
        let user = |node: &NodeRecord| {
            let NodeRecord { name, seen, uses, .. } = node;
            match uses.get(&record.serial()) {
                Some(clients) if node.is_unknown(now) => {
                    Some(format!("{name} (unknown: silent since {seen}, {} open then)", files(*clients)))
                }
                Some(clients) => Some(format!("{name} ({} open)", files(*clients))),
                // It may have begun to use it since, and nobody would know.
                None if is_retired && retired.is_some_and(|retired| seen.seconds <= retired) => {
                    Some(format!("{name} (unknown: silent since {seen}, before {version} was retired)"))
                }
                None => None,
            }
        };
        let nodes = self.nodes();
        let mut users: Vec<String> = nodes.iter().filter(|node| !ignored.contains(&node.id)).filter_map(user).collect();
        users.extend(self.users.sent.is_read(&record.root()).then(|| "somebody to whom it is being sent".to_owned()));
        Ok(users)
    }

    /// Keeps the versions with this root from being removed as long as what is returned lives.
    pub fn hold(&self, root: Root) -> Hold {
        let sent = self.users.sent.clone();
        let mut readings = guard(&sent.0);
        // What was sent long ago is of no interest.
        readings.retain(|_, reading| reading.now > 0 || reading.last.elapsed() < SENT_LINGER);
        readings.entry(root).or_insert(Reading { now: 0, last: Instant::now() }).now += 1;
        drop(readings);
        Hold { sent, root }
    }
}

impl Sent {
    fn is_read(&self, root: &Root) -> bool {
        guard(&self.0).get(root).is_some_and(|reading| reading.now > 0 || reading.last.elapsed() < SENT_LINGER)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(reading) = guard(&self.sent.0).get_mut(&self.root) {
            (reading.now, reading.last) = (reading.now.saturating_sub(1), Instant::now());
        }
    }
}

fn files(count: u32) -> String {
    format!("{count} file{}", if count == 1 { "" } else { "s" })
}
