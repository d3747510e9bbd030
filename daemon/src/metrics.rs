//! `/metrics`: what the status tells, for Prometheus. Made of a report, so it is answered from memory like that.
//!
//! Names and labels are stable. Labels are configured (sources), of a fixed set (states, verdicts) or bounded
//! ([`VERSIONS_MAX`]), so that a scrape stays small however many versions there are.

mod exposition;

use std::cmp::Reverse;
use std::collections::BTreeSet;

use crate::orders::{OrderReport, Verdict};
use crate::report::{CacheReport, MasterReport, Process, Report, SourceReport, StoreReport, VersionReport};
use exposition::Exposition;
use icbd_image::VersionState;

/// Versions with figures of their own: those that count most here.
const VERSIONS_MAX: usize = 100;

/// Every way in which an order that has not ended can stand: a verdict that none has is 0, not absent.
const VERDICTS: [(Verdict, &str); 10] = [
    (Verdict::Kept, "kept"),
    (Verdict::Missed, "missed"),
    (Verdict::Late, "late"),
    (Verdict::Runs, "runs"),
    (Verdict::Stuck, "stuck"),
    (Verdict::Looks, "looks"),
    (Verdict::Queued, "queued"),
    (Verdict::Waits, "waits"),
    (Verdict::NoVersion, "no_version"),
    (Verdict::Paused, "paused"),
];

/// The text of a scrape; `orders` are those of a cache.
pub(crate) fn text(report: &Report, orders: &[OrderReport]) -> String {
    let mut to = Exposition::default();
    match report {
        Report::Master(master) => tell_master(&mut to, master),
        Report::Cache(cache) => {
            tell_process(&mut to, &cache.process, "cache", cache.warnings.len());
            tell_sources(&mut to, cache);
            tell_store(&mut to, &cache.store);
            tell_readers(&mut to, cache);
            tell_orders(&mut to, orders);
            tell_versions(&mut to, &cache.versions);
        }
    }
    to.into_text()
}

fn tell_process(to: &mut Exposition, process: &Process, role: &str, warnings: usize) {
    to.gauge("icbd_build_info", "Always 1; says which icbd runs, and as what.")
        .add(&[("version", &process.icbd), ("role", role)], 1);
    to.gauge("icbd_uptime_seconds", "Since the daemon was started.").is(process.uptime_seconds);
    to.gauge("icbd_warnings", "Warnings that `icbd status` shows now.").is(count(warnings));
}

fn tell_master(to: &mut Exposition, master: &MasterReport) {
    // The only warnings of a master are of versions that are damaged.
    tell_process(to, &master.process, "master", master.warnings.len());
    to.gauge("icbd_images", "Images in the repository.").is(count(master.images));
    to.gauge("icbd_versions", "Versions in the repository.").is(count(master.versions));
    to.gauge("icbd_damaged_versions", "Versions of which something is no longer as it was published.")
        .is(count(master.warnings.len()));
    to.gauge("icbd_operations", "Publishes and verifications that run or wait.").is(count(master.operations.len()));
    to.counter("icbd_requests_total", "HTTP requests answered.").is(master.sent.requests);
    to.counter("icbd_sent_blocks_total", "Blocks sent in answers to block requests.").is(master.sent.blocks);
    to.counter("icbd_sent_bytes_total", "Bytes of bodies sent, as they travelled.").is(master.sent.bytes);
}

fn tell_sources(to: &mut Exposition, cache: &CacheReport) {
    // One that is configured twice is told of once: the same series twice would spoil the whole scrape.
    let mut known = BTreeSet::new();
    let sources: Vec<&SourceReport> = cache.sources.iter().filter(|source| known.insert(&source.url)).collect();
    let mut up = to.gauge("icbd_source_up", "Whether the source answers; absent until it was asked.");
    for source in &sources {
        if let Some(is_online) = source.online {
            up.add(&[("source", &source.url)], is_online.into());
        }
    }
    let mut received = to.counter("icbd_source_received_bytes_total", "Bytes from the source, as they travelled.");
    sources.iter().for_each(|source| received.add(&[("source", &source.url)], source.bytes_received));
    let mut requests = to.counter("icbd_source_requests_total", "Requests made to the source, failed ones included.");
    sources.iter().for_each(|source| requests.add(&[("source", &source.url)], source.requests));
    let mut in_flight = to.gauge("icbd_source_in_flight_requests", "Requests for blocks that are under way.");
    sources.iter().for_each(|source| in_flight.add(&[("source", &source.url)], count(source.in_flight)));
    to.counter("icbd_fetched_bytes_total", "Bytes of blocks fetched from sources, unpacked.").is(cache.fetched_bytes);
    to.counter("icbd_reused_bytes_total", "Bytes of blocks taken from other versions here.").is(cache.reused_bytes);
    to.gauge("icbd_in_flight_bytes", "Memory that blocks under way take.").is(cache.in_flight_bytes);
}

fn tell_store(to: &mut Exposition, store: &StoreReport) {
    let mut state = to.gauge("icbd_store_state", "1 for the state that the store is in, 0 for the others.");
    for known in ["ok", "full", "suspect"] {
        state.add(&[("state", known)], (store.state == known).into());
    }
    to.gauge("icbd_store_used_bytes", "Used of the store's file system, by whomever.").is(store.used_bytes);
    to.gauge("icbd_store_size_bytes", "Size of the store's file system.").is(store.size_bytes);
}

fn tell_readers(to: &mut Exposition, cache: &CacheReport) {
    let mount = &cache.mount;
    to.gauge("icbd_mounted", "Whether the images are mounted.").is(mount.mounted.into());
    let mut handles = to.gauge("icbd_open_handles", "Files that programs hold open, by how they read.");
    handles.add(&[("mode", "cached")], mount.cached_handles);
    handles.add(&[("mode", "passthrough")], mount.passthrough_handles);
    to.gauge("icbd_pending_requests", "Requests of the kernel that wait for a block, a head or the disk.")
        .is(count(mount.waiting_requests));
    to.counter("icbd_failed_reads_total", "Reads that were given up: programs got an I/O error.")
        .is(cache.failed_reads);
    to.gauge("icbd_waiting_reads", "Reads that have waited for a source for more than a second.")
        .is(count(cache.waiting.len()));
    let longest = cache.waiting.iter().map(|read| read.seconds).max().unwrap_or(0);
    to.gauge("icbd_longest_wait_seconds", "How long the one of these has waited that waits longest.").is(longest);
}

fn tell_orders(to: &mut Exposition, orders: &[OrderReport]) {
    let open: Vec<&OrderReport> = orders.iter().filter(|order| matches!(&*order.state, "active" | "paused")).collect();
    let mut by_verdict = to.gauge("icbd_prefetch_orders", "Prefetch orders that have not ended, by verdict.");
    for (verdict, name) in VERDICTS {
        by_verdict.add(&[("verdict", name)], count(open.iter().filter(|order| order.verdict == verdict).count()));
    }
    let left = open.iter().map(|order| order.left_bytes).sum();
    to.gauge("icbd_prefetch_left_bytes", "What is to be fetched still for these, at most.").is(left);
}

fn tell_versions(to: &mut Exposition, versions: &[VersionReport]) {
    to.gauge("icbd_versions", "Versions that the sources offer or offered.").is(count(versions.len()));
    let mut shown: Vec<&VersionReport> = versions.iter().filter(|version| version.is_of_interest()).collect();
    let is_deployed = |version: &VersionReport| version.state == VersionState::Deployed;
    shown.sort_by_key(|version| {
        Reverse((is_deployed(version), version.fallback, version.open_handles > 0, version.resident_bytes))
    });
    shown.truncate(VERSIONS_MAX);
    let mut each = |name, help, value: &dyn Fn(&VersionReport) -> u64| {
        let mut family = to.gauge(name, help);
        for version in &shown {
            let (image, number) = (version.version.image.as_str(), version.version.number.to_string());
            family.add(&[("image", image), ("version", &number)], value(version));
        }
    };
    let deployed = |version: &VersionReport| is_deployed(version).into();
    each("icbd_version_deployed", "Whether the version is the deployed one.", &deployed);
    each("icbd_version_size_bytes", "All blocks of the version.", &|version| version.bytes);
    each("icbd_version_resident_bytes", "Its blocks that are here.", &|version| version.resident_bytes);
    each("icbd_version_complete", "Whether all of it is here for good.", &|version| version.complete.into());
    each("icbd_version_open_handles", "Files of it of 1 MiB and more that are open.", &|version| version.open_handles);
}

fn count(of: usize) -> u64 {
    of as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::testing;

    #[test]
    fn a_scrape_has_a_bounded_length() {
        let Report::Cache(mut cache) = testing::cache() else { panic!("not a cache") };
        let some = cache.versions[0].clone();
        cache.versions = (1..=10_000u32)
            .map(|number| {
                let version = format!("debian-lab@{number}").parse().unwrap();
                let state = if number == 9000 { VersionState::Deployed } else { VersionState::Ready };
                VersionReport { version, state, ..some.clone() }
            })
            .collect();
        let text = text(&Report::Cache(cache), &[]);
        assert!(text.lines().count() < 100 + 5 * VERSIONS_MAX, "{}", text.lines().count());
        assert!(text.contains("icbd_versions 10000\n"));
        assert!(text.contains("icbd_version_deployed{image=\"debian-lab\",version=\"9000\"} 1\n"));
    }

    #[test]
    fn a_source_that_is_named_twice_is_one() {
        let Report::Cache(mut cache) = testing::cache() else { panic!("not a cache") };
        cache.sources.push(cache.sources[0].clone());
        let text = text(&Report::Cache(cache), &[]);
        assert_eq!(text.matches("icbd_source_up{").count(), 1, "{text}");
    }

    #[test]
    fn a_cache_in_trouble_shows_it() {
        let text = text(&testing::cache(), &[]);
        for line in [
            "icbd_source_up{source=\"http://img:7070\"} 0",
            "icbd_store_state{state=\"full\"} 1",
            "icbd_store_state{state=\"ok\"} 0",
            "icbd_waiting_reads 1",
            "icbd_longest_wait_seconds 12",
            "icbd_version_resident_bytes{image=\"debian-lab\",version=\"3\"} 3997696",
            "icbd_prefetch_orders{verdict=\"late\"} 0",
        ] {
            assert!(text.lines().any(|known| known == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("version=\"1\""), "nothing is here of it");
    }
}
