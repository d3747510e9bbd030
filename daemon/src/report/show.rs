//! `icbd status` for people.

use super::{
    CacheReport, LocalReport, MasterReport, MountReport, Process, Report, SourceReport, VersionReport, WaitingReport,
};
use crate::edits::EditReport;
use crate::moves::PlanReport;
use crate::output::{bytes, counted, percent, plain, seconds, table, time};
use icbd_image::{Timestamp, VersionState};

/// A report as text. `all` lists also the versions of which nothing is here and which are not deployed.
pub(crate) fn show(report: &Report, all: bool) -> String {
    match report {
        Report::Master(master) => show_master(master),
        Report::Cache(cache) => show_cache(cache, all),
    }
}

fn show_master(master: &MasterReport) -> String {
    let listen: Vec<String> = master.listen.iter().map(ToString::to_string).collect();
    let mut lines = vec![
        format!("{}  master of {}", up(&master.process), master.repository),
        format!(
            "repository {}{}  {}, {}",
            master.path.display(),
            master.disk.as_ref().map_or(String::new(), show_disk),
            counted(master.images, "image"),
            counted(master.versions, "version")
        ),
        format!("listens on {}{}", listen.join(", "), if master.tls { ", by TLS" } else { "" }),
        format!(
            "sent {} in {}, {}",
            bytes(master.sent.bytes),
            counted(master.sent.requests, "request"),
            counted(master.sent.blocks, "block")
        ),
    ];
    if let Some(packed) = &master.packed {
        let goes_on = if packed.is_complete { "" } else { ", and goes on" };
        lines.push(format!(
            "packed ahead of use: {} of at most {}{goes_on}",
            bytes(packed.bytes),
            bytes(packed.bytes_max)
        ));
    }
    let running =
        |op: &super::OperationReport| format!("running for {}: {} ({})", seconds(op.seconds), plain(&op.what), op.user);
    lines.extend(master.editing.iter().map(EditReport::words));
    lines.extend(master.plans.iter().map(PlanReport::words));
    lines.extend(master.operations.iter().map(running));
    lines.extend(master.warnings.iter().map(|warning| format!("! {}", plain(warning))));
    lines.join("\n")
}

fn show_disk(disk: &super::DiskReport) -> String {
    let read_only = if disk.is_read_only { ", READ-ONLY" } else { "" };
    format!(" {} {}/{}{read_only}", disk.file_system, bytes(disk.used_bytes), bytes(disk.size_bytes))
}

fn show_cache(cache: &CacheReport, all: bool) -> String {
    let sources: Vec<String> = cache.sources.iter().map(show_source).collect();
    let store = &cache.store;
    let state = match (&*store.state, &store.reason) {
        ("ok", _) => String::new(),
        (state, reason) => format!("  {}: {}", state.to_uppercase(), reason.as_deref().unwrap_or("unknown")),
    };
    let space = format!("{}/{}", bytes(store.used_bytes), bytes(store.size_bytes));
    let mut lines = vec![
        format!("{}  {}", up(&cache.process), sources.join("  ")),
        format!("store {} {} {space}{state}", store.path.display(), store.file_system),
        format!(
            "fetched {} since the start, took {} from other versions here",
            bytes(cache.fetched_bytes),
            bytes(cache.reused_bytes)
        ),
        show_mount(&cache.mount),
    ];
    let shown: Vec<&VersionReport> = cache.versions.iter().filter(|version| all || version.is_of_interest()).collect();
    let hidden = cache.versions.len() - shown.len();
    if !shown.is_empty() {
        lines.push(table(
            &["IMAGE@N", "STATE", ">LOCAL", "READY", ">CLIENTS", ">FROM MASTER TODAY", ">HERE", ">SIZE"],
            shown.iter().map(|version| version_row(version)),
        ));
    }
    if shown.iter().any(|version| version.open_handles > 0) {
        lines.push(
            "CLIENTS: opens of files of at least 1 MiB that programs hold now, and workstations by iSCSI".to_owned(),
        );
    }
    if hidden > 0 {
        lines.push(format!("{hidden} more, of which nothing is here; --all lists them"));
    }
    lines.extend(cache.local.iter().map(show_local));
    lines.extend(cache.waiting.iter().map(show_waiting));
    lines.extend(cache.failed_lately.iter().map(|failed| format!("! {}", plain(failed))));
    lines.extend(cache.warnings.iter().map(|warning| format!("! {}", plain(warning))));
    lines.join("\n")
}

fn show_mount(mount: &MountReport) -> String {
    let path = mount.path.display();
    if !mount.mounted {
        return format!("mount {path}  NOT MOUNTED");
    }
    let waiting =
        if mount.waiting_requests == 0 { String::new() } else { format!("  {} wait", mount.waiting_requests) };
    format!("mount {path}  open: {} cached, {} passthrough{waiting}", mount.cached_handles, mount.passthrough_handles)
}

fn up(process: &Process) -> String {
    format!("{}  up {}", process.name, seconds(process.uptime_seconds))
}

fn show_source(source: &SourceReport) -> String {
    let url = &source.url;
    match source.online {
        None => format!("master {url} not asked yet"),
        Some(true) => format!("master {url} online  received {}", bytes(source.bytes_received)),
        Some(false) => {
            let why = source.error.as_deref().map_or(String::new(), |error| format!(": {error}"));
            format!("master {url} OFFLINE for {}{why}", seconds(source.since_seconds))
        }
    }
}

fn version_row(version: &VersionReport) -> Vec<String> {
    let local = if version.complete { "100 %".to_owned() } else { percent(version.resident_bytes, version.bytes) };
    // What its master calls it counts for more: a fallback that is about to go is no fallback for long.
    let is_fallback = version.fallback && version.state == VersionState::Ready;
    let state = if is_fallback { "fallback".to_owned() } else { version.state.to_string() };
    let pinned = if version.pinned_by.is_some() { ", pinned" } else { "" };
    vec![
        version.version.to_string(),
        format!("{state}{pinned}"),
        local,
        ready(version),
        version.open_handles.to_string(),
        bytes(version.fetched_today_bytes),
        bytes(version.resident_bytes),
        bytes(version.bytes),
    ]
}

/// Whether it can be read without a master.
fn ready(version: &VersionReport) -> String {
    let at = |seconds| time(Timestamp { seconds, nanoseconds: 0 });
    match (version.sealed_since, version.boot_set_since) {
        (Some(since), _) => return format!("sealed {}", at(since)),
        (None, Some(since)) if !version.complete => return format!("boot set since {}", at(since)),
        _ => {}
    }
    match (version.complete, version.complete_since, version.resident_bytes) {
        (true, Some(seconds), _) => format!("complete since {}", at(seconds)),
        (true, None, _) => "complete".to_owned(),
        (false, ..) if version.filling => "filling".to_owned(),
        (false, _, 0) => "no".to_owned(),
        (false, ..) => "in part".to_owned(),
    }
}

fn show_local(local: &LocalReport) -> String {
    let LocalReport { version, by, since, deployed } = local;
    let image = &version.image;
    let master = match deployed {
        Some(number) if *number == version.number => "the master deploys the same now".to_owned(),
        Some(number) => format!("the master deploys {image}@{number}"),
        None => "the master deploys none".to_owned(),
    };
    format!(
        "! {image} is {version} here since {since} ({by}), and {master}; `icbd image rollback {image} --local --clear` \
         follows the master again"
    )
}

fn show_waiting(waiting: &WaitingReport) -> String {
    let WaitingReport { version, file, .. } = waiting;
    let block = waiting.block.map_or(String::new(), |block| format!(" block {block}"));
    let why = waiting.reason.as_deref().map_or(String::new(), |reason| format!(" ({reason})"));
    format!("! {version} {}{block}: waiting {} for master{why}", plain(file), seconds(waiting.seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::testing;

    #[test]
    fn a_cache_shows_what_an_administrator_asks_first() {
        let expected = "\
cache-204  up 12 d  master http://img:7070 OFFLINE for 9 min: connection refused
store /s btrfs 312 GiB/400 GiB  FULL: no space left
fetched 0 B since the start, took 0 B from other versions here
mount /icbd  open: 2 cached, 0 passthrough
IMAGE@N       STATE     LOCAL  READY                                CLIENTS  FROM MASTER TODAY     HERE     SIZE
debian-lab@3  deployed   61 %  filling                                    3            212 MiB  3.8 MiB  6.2 MiB
debian-lab@2  fallback  100 %  complete since 2026-09-21 14:13:20Z        0                0 B  6.2 MiB  6.2 MiB
CLIENTS: opens of files of at least 1 MiB that programs hold now, and workstations by iSCSI
1 more, of which nothing is here; --all lists them
! debian-lab@3 disk.raw block 17: waiting 12 s for master (connection refused)
! debian-lab@1 is gone from the master; it is kept";
        let report = testing::cache();
        assert_eq!(show(&report, false), expected);
        assert!(show(&report, true).contains("debian-lab@1  ready       0 %  no"));
    }

    #[test]
    fn the_json_says_the_role() {
        let json = serde_json::to_value(testing::cache()).unwrap();
        assert_eq!((&json["role"], &json["name"]), (&"cache".into(), &"cache-204".into()));
        assert_eq!(serde_json::from_value::<Report>(json).unwrap(), testing::cache());
    }
}
