//! Who uses a version keeps it: leases of nodes, known and unknown, and what is being sent; and what pruning leaves.

mod common;

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::{Area, image, publish, run};
use icbd_image::{Force, NodeUuid, Serial, VersionId, VersionState};
use icbd_master::{Fate, MasterError, Repository, Retention, Settings};
use icbd_wire::{NodeReport, Readiness, ReadyReport};

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
/// Nothing is kept for its age or number.
const NOTHING: Retention = Retention { last: 0, younger_than: Duration::ZERO };

/// Seconds that have passed, for all tests of this process: each has one of its own.
static CLOCK: AtomicU64 = AtomicU64::new(1_800_000_000);

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(CLOCK.load(Ordering::Relaxed))
}

fn pass(seconds: u64) {
    CLOCK.fetch_add(seconds, Ordering::Relaxed);
}

fn open(path: &Path) -> Repository {
    Repository::open_or_create(path, Settings { clock: now, ..Settings::default() }).unwrap()
}

fn lab(version: u32) -> VersionId {
    format!("lab@{version}").parse().unwrap()
}

fn serial(repository: &Repository, version: u32) -> Serial {
    repository.version(&lab(version)).unwrap().serial()
}

fn say(repository: &Repository, name: &str, uses: &[(Serial, u32)], is_whole: bool) {
    say_ready(repository, name, uses, is_whole, &[]);
}

fn say_ready(
    repository: &Repository,
    name: &str,
    uses: &[(Serial, u32)],
    is_whole: bool,
    ready: &[(Serial, Readiness)],
) -> bool {
    let report = NodeReport { node: id_of(name), name: name.to_owned(), uses: uses.to_vec(), is_whole };
    repository.heard(&report, &ReadyReport::new(ready.iter().copied()), HERE).unwrap()
}

fn id_of(name: &str) -> NodeUuid {
    let mut id = [0; 16];
    id[..name.len()].copy_from_slice(name.as_bytes());
    NodeUuid::from_random(id)
}

fn published(area: &Area, count: u32) -> Repository {
    std::fs::write(area.source().join("disk"), vec![7; 3_000_000]).unwrap();
    let repository = open(&area.repository());
    for _ in 0..count {
        publish(&repository, "lab", &area.source()).unwrap();
        pass(86_400);
    }
    repository
}

/// What pruning says of each version.
fn fates(repository: &Repository, retention: &Retention, ignored: &[&str]) -> Vec<(Fate, String)> {
    let ignored: Vec<NodeUuid> = ignored.iter().map(|name| id_of(name)).collect();
    let pruning = repository.plan_pruning(retention, &ignored).unwrap();
    pruning.verdicts.into_iter().map(|verdict| (verdict.fate, verdict.reason)).collect()
}

/// A silent node's versions are not removed: only its own word, or an administrator who names it, lets go of them.
#[test]
fn silence_never_releases_a_lease() {
    let area = Area::new();
    let repository = published(&area, 2);
    repository.deploy(&lab(2)).unwrap();
    let one = serial(&repository, 1);
    say(&repository, "cache-17", &[(one, 3)], true);
    assert_eq!(repository.clients(&lab(1)).unwrap(), 3);
    let is_used = |repository: &Repository, says: &str| {
        let users = repository.users(&lab(1), &[]).unwrap();
        assert!(users.len() == 1 && users[0].contains(says), "{users:?}");
    };
    is_used(&repository, "cache-17 (3 files open)");
    pass(61);
    is_used(&repository, "cache-17 (unknown: silent since 20");
    // For ever, and whatever becomes of the master.
    pass(10 * 365 * 86_400);
    drop(repository);
    let repository = open(&area.repository());
    is_used(&repository, "3 files open then");
    assert_eq!(fates(&repository, &NOTHING, &[])[0].0, Fate::Waits);
    repository.prune(&NOTHING, &[]).unwrap();
    assert_eq!(repository.version(&lab(1)).unwrap().state, VersionState::Ready);
    // A report that is not whole lets go of nothing.
    say(&repository, "cache-17", &[], false);
    is_used(&repository, "cache-17");
    // An administrator who names it may, and so may the node itself.
    assert_eq!(fates(&repository, &NOTHING, &["cache-17"])[0].0, Fate::Removed);
    say(&repository, "cache-17", &[], true);
    assert_eq!(repository.users(&lab(1), &[]).unwrap(), Vec::<String>::new());
    say(&repository, "cache-17", &[(one, 1)], true);
    let node = repository.nodes()[0].id;
    repository.forget_node(node).unwrap();
    assert_eq!((repository.nodes().len(), repository.users(&lab(1), &[]).unwrap().len()), (0, 0));
}

/// A silent node's versions are not removed: only its own word, or an administrator who names it, lets go of them.
#[test]
fn a_node_that_is_silent_since_before_the_retirement_may_use_it() {
    let area = Area::new();
    let repository = published(&area, 2);
    repository.deploy(&lab(2)).unwrap();
    say(&repository, "cache-9", &[], true);
    pass(100);
    repository.retire(&lab(1), Force::No).unwrap();
    let (fate, reason) = fates(&repository, &NOTHING, &[]).remove(0);
    assert!(
        fate == Fate::Waits && reason.contains("cache-9") && reason.contains("before lab@1 was retired"),
        "{reason}"
    );
    pass(2);
    say(&repository, "cache-9", &[], true);
    assert_eq!(fates(&repository, &NOTHING, &[])[0].0, Fate::Removed);
}

/// What is being sent is not removed.
#[test]
fn what_is_being_sent_is_not_pruned() {
    let area = Area::new();
    let repository = published(&area, 2);
    repository.deploy(&lab(2)).unwrap();
    let other = publish(&repository, "other", &area.source()).unwrap();
    // The same content in another image: a reader of the one may be a reader of the other.
    let hold = repository.hold(other.record.root());
    assert!(fates(&repository, &NOTHING, &[])[0].1.contains("being sent"));
    let pruned = repository.prune(&NOTHING, &[]).unwrap();
    assert_eq!(pruned.verdicts.iter().filter(|verdict| verdict.fate == Fate::Removed).count(), 0);
    drop(hold);
    assert!(repository.version(&lab(1)).is_ok());
}

#[test]
fn each_version_stays_or_goes_for_a_reason() {
    let area = Area::new();
    let repository = published(&area, 8);
    for version in [1, 2, 3] {
        repository.deploy(&lab(version)).unwrap();
    }
    repository.retire(&lab(7), Force::No).unwrap();
    let retention = Retention { last: 2, younger_than: Duration::from_secs(4 * 86_400) };
    let all = fates(&repository, &retention, &[]);
    let reasons: Vec<&str> = all.iter().map(|(_, reason)| reason.as_str()).collect();
    assert_eq!(
        reasons,
        [
            "old, and nobody uses it",
            "the fallback",
            "deployed",
            "old, and nobody uses it",
            "old, and nobody uses it",
            "younger than 4 days",
            "retired, and nobody uses it; its content stays: one of the newest 2",
            "one of the newest 2"
        ]
    );
    let said = repository.plan_pruning(&retention, &[]).unwrap();
    assert_eq!(repository.prune(&retention, &[]).unwrap(), said);
    let listing = repository.listing();
    let record = listing.image(&image("lab")).unwrap();
    let numbers: Vec<u32> = record.versions.iter().map(|version| version.number().get()).collect();
    let removed: Vec<u32> = record.removed.iter().map(|number| number.get()).collect();
    assert_eq!((numbers, removed), (vec![2, 3, 6, 7, 8], vec![1, 4, 5]));
    assert_eq!(repository.version(&lab(7)).unwrap().state, VersionState::Archived);
    assert!(!area.repository().join("versions/lab/1").exists() && area.repository().join("versions/lab/7").exists());
    // What was archived comes back; what was removed does not, and its number is not given again.
    repository.restore(&lab(7)).unwrap();
    let refused = repository.restore(&lab(1)).unwrap_err();
    assert!(refused.to_string().contains("was removed for good"), "{refused}");
    assert!(matches!(repository.deploy(&lab(4)), Err(MasterError::Refused(_))));
    drop(repository);
    let repository = open(&area.repository());
    assert_eq!(publish(&repository, "lab", &area.source()).unwrap().version, lab(9));
    // The same content, whose manifest other versions still need.
    assert!(repository.deploy(&lab(8)).is_ok());
}

/// Bytes that a tree of a btrfs takes on its disk, what several files share counted once, as `btrfs filesystem du` says.
fn taken(path: &Path) -> u64 {
    run(Command::new("btrfs").args(["filesystem", "sync"]).arg(path));
    let output = Command::new("btrfs").args(["filesystem", "du", "-s", "--raw"]).arg(path).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let line = said.lines().last().unwrap();
    let [_, exclusive, shared, ..] = line.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{said}") };
    exclusive.parse::<u64>().unwrap() + shared.parse::<u64>().unwrap()
}

/// Pruning frees what it said, within a twentieth.
#[test]
fn pruning_frees_what_it_said() {
    let area = Area::on(&["mkfs.btrfs", "-q"], 1 << 30);
    let repository = open(&area.repository());
    for version in 1..=4_u8 {
        // A third is each version's own, the rest is shared.
        for part in 0..3_u8 {
            let seed = if part == 0 { version } else { 100 + part };
            let bytes: Vec<u8> =
                (0..8_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8 ^ seed).collect();
            let path = area.source().join(format!("disk{part}"));
            if version == 1 || part == 0 {
                std::fs::write(&path, bytes).unwrap();
            }
        }
        publish(&repository, "lab", &area.source()).unwrap();
        pass(86_400);
    }
    repository.deploy(&lab(4)).unwrap();
    let versions = area.repository().join("versions");
    let before = taken(&versions);
    let said = repository.prune(&NOTHING, &[]).unwrap();
    assert_eq!(said.verdicts.iter().filter(|verdict| verdict.fate == Fate::Removed).count(), 3);
    // A deleted subvolume's space comes back when the file system gets to it.
    run(Command::new("btrfs").args(["subvolume", "sync"]).arg(area.repository()));
    let freed = before - taken(&versions);
    let off = freed.abs_diff(said.freed_bytes);
    assert!(off * 20 <= said.freed_bytes, "{freed} bytes were freed, {} were promised", said.freed_bytes);
}

/// Who is silent is not ready, whatever it said before, and neither is anybody whom the master did not hear since its start.
#[test]
fn a_silent_node_is_not_ready() {
    let area = Area::new();
    let repository = published(&area, 2);
    let two = serial(&repository, 2);
    let lacking = |repository: &Repository, needs| {
        let lacking = repository.lacking(&lab(2), needs).unwrap();
        lacking.into_iter().map(|node| (node.name, node.has, node.silent_since.is_some())).collect::<Vec<_>>()
    };
    assert_eq!(lacking(&repository, Readiness::Sealed), [], "nobody is waited for");
    assert!(say_ready(&repository, "a", &[], true, &[(two, Readiness::Complete)]));
    assert!(!say_ready(&repository, "a", &[], true, &[(two, Readiness::Complete)]), "nothing is new");
    assert!(say_ready(&repository, "b", &[], true, &[]));
    assert_eq!(lacking(&repository, Readiness::Boot), [("b".to_owned(), None, false)]);
    let all = [("a".to_owned(), Some(Readiness::Complete), false), ("b".to_owned(), None, false)];
    assert_eq!(lacking(&repository, Readiness::Sealed), all);
    say_ready(&repository, "b", &[], true, &[(two, Readiness::Sealed)]);
    assert_eq!(lacking(&repository, Readiness::Complete), []);
    pass(61);
    say_ready(&repository, "a", &[], true, &[(two, Readiness::Complete)]);
    assert_eq!(lacking(&repository, Readiness::Boot), [("b".to_owned(), Some(Readiness::Sealed), true)]);
    drop(repository);
    let repository = open(&area.repository());
    assert_eq!(lacking(&repository, Readiness::Boot).len(), 2);
}
