//! The storm itself: a thread a client, all let go at once.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::target::Disk;
use crate::{Read, StormError, Target, Trace};

/// A thread each; a thousand workstations at one cache server are more than a site has.
pub const CLIENTS_MAX: u32 = 1000;
/// Every read's time is kept, in four bytes.
const READS_MAX: u64 = 50_000_000;
/// Thought is slept off in pieces of at least this: shorter sleeps last longer than they should.
const SLEEP_MIN: Duration = Duration::from_millis(1);
/// What an antivirus reads at once.
const SCAN_BYTES: u64 = 1 << 20;

/// How to replay.
#[derive(Debug, Clone, Copy)]
pub struct Storm {
    /// How many clients boot at once, 1 to [`CLIENTS_MAX`].
    pub clients: u32,
    /// Whether they think as long as the recorded machine did.
    pub think: bool,
    /// Whether one more client reads the whole disk from start to end meanwhile, as an antivirus does.
    pub scan: bool,
    /// Whether this machine's page cache may answer for a path.
    pub page_cache: bool,
    /// Whether to hash what was read.
    pub digest: bool,
}

/// What a storm came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// When each client had its last byte, counted from the common start; sorted.
    pub done: Vec<Duration>,
    /// How long single reads took, in microseconds; sorted.
    pub latencies_us: Vec<u32>,
    /// What the clients read, in bytes, without the scan.
    pub bytes: u64,
    /// What the scan had read when the last client was done.
    pub scan_bytes: Option<u64>,
    /// BLAKE3, in hex, of what a client read, in the order of the trace.
    pub digest: Option<String>,
    /// What was done about caches on this machine.
    pub cache_note: &'static str,
}

impl Outcome {
    /// The nearest-rank quantile of the clients' times, 0 to 1.
    pub fn done_at(&self, q: f64) -> Duration {
        quantile(&self.done, q)
    }

    /// The nearest-rank quantile of single reads, 0 to 1.
    pub fn latency_at(&self, q: f64) -> Duration {
        Duration::from_micros(u64::from(quantile(&self.latencies_us, q)))
    }
}

fn quantile<T: Copy>(sorted: &[T], q: f64) -> T {
    let rank = (sorted.len() as f64 * q).ceil() as usize;
    sorted[rank.saturating_sub(1).min(sorted.len() - 1)]
}

/// Lets `storm.clients` clients replay `trace` on `target`, and waits for the last.
///
/// Fails, after all have ended, with the first error of any client.
pub fn replay(target: &Target, trace: &Trace, storm: &Storm) -> Result<Outcome, StormError> {
    let reads = u64::from(storm.clients) * trace.reads().len() as u64;
    if storm.clients == 0 || storm.clients > CLIENTS_MAX {
        return Err(StormError::TooMuch(format!("{} clients: 1 to {CLIENTS_MAX} can be", storm.clients)));
    }
    if reads > READS_MAX {
        let what = format!("{reads} reads in all are more than {READS_MAX}; take fewer clients or a shorter trace");
        return Err(StormError::TooMuch(what));
    }
    let failed = |what: String| move |source| StormError::Io { target: target.to_string(), what, source };
    let open =
        |client| Disk::open(target, client, storm.page_cache).map_err(failed(format!("opening (client {client})")));
    let mut disks = (1..=storm.clients).map(open).collect::<Result<Vec<Disk>, _>>()?;
    let scanner = storm.scan.then(|| open(storm.clients + 1)).transpose()?;
    let (cache_note, disk_bytes) = (disks[0].cache_note(), disks[0].bytes());
    if trace.end() > disk_bytes {
        return Err(StormError::TooSmall { target: target.to_string(), trace_bytes: trace.end(), disk_bytes });
    }
    let start = Barrier::new(disks.len() + usize::from(scanner.is_some()) + 1);
    let (is_over, scanned) = (AtomicBool::new(false), AtomicU64::new(0));
    let (ended, scan_bytes, scan_error) = std::thread::scope(|scope| {
        let clients: Vec<_> =
            disks.drain(..).map(|disk| scope.spawn(|| boot(disk, trace.reads(), storm, &start))).collect();
        let scanner = scanner.map(|disk| scope.spawn(|| scan(disk, &start, &is_over, &scanned)));
        start.wait();
        let ended: Vec<_> = clients.into_iter().map(|client| client.join().expect("no client panics")).collect();
        let scan_bytes = scanned.load(Ordering::Relaxed);
        is_over.store(true, Ordering::Relaxed);
        let scan_error = scanner.and_then(|scanner| scanner.join().expect("the scan does not panic").err());
        (ended, scan_bytes, scan_error)
    });
    if let Some(error) = scan_error {
        return Err(failed("scanning".to_owned())(error));
    }
    let mut clients = Vec::new();
    for (at, client) in ended.into_iter().enumerate() {
        clients.push(client.map_err(|(read, error)| failed(format!("client {}, read {read}", at + 1))(error))?);
    }
    let digest =
        agreed_digest(&clients).map_err(|client| StormError::Differs { target: target.to_string(), client })?;
    // Whoever else was told to start may have been woken late.
    let began = clients.iter().map(|client| client.began).min();
    let since = |done: Instant| began.map_or(Duration::ZERO, |began| done - began);
    let mut done: Vec<Duration> = clients.iter().map(|client| since(client.done)).collect();
    done.sort_unstable();
    let mut latencies_us: Vec<u32> = clients.iter().flat_map(|client| client.latencies_us.iter().copied()).collect();
    latencies_us.sort_unstable();
    let bytes = trace.bytes() * u64::from(storm.clients);
    Ok(Outcome { done, latencies_us, bytes, scan_bytes: storm.scan.then_some(scan_bytes), digest, cache_note })
}

/// One client that came to the end of the trace.
struct Booted {
    began: Instant,
    done: Instant,
    latencies_us: Vec<u32>,
    digest: Option<blake3::Hash>,
}

/// Replays `reads`; an error comes with the number of its read.
fn boot(mut disk: Disk, reads: &[Read], storm: &Storm, start: &Barrier) -> Result<Booted, (usize, std::io::Error)> {
    let mut latencies_us = Vec::with_capacity(reads.len());
    let mut hasher = storm.digest.then(blake3::Hasher::new);
    let mut owed = Duration::ZERO;
    start.wait();
    let began = Instant::now();
    for (at, read) in reads.iter().enumerate() {
        if storm.think {
            owed += read.think;
            if owed >= SLEEP_MIN {
                let asleep = Instant::now();
                std::thread::sleep(owed);
                owed = owed.saturating_sub(asleep.elapsed());
            }
        }
        let asked = Instant::now();
        let bytes = disk.read(read.offset, read.bytes as usize).map_err(|error| (at + 1, error))?;
        latencies_us.push(u32::try_from(asked.elapsed().as_micros()).unwrap_or(u32::MAX));
        if let Some(hasher) = &mut hasher {
            hasher.update(bytes);
        }
    }
    Ok(Booted { began, done: Instant::now(), latencies_us, digest: hasher.map(|hasher| hasher.finalize()) })
}

/// Reads the disk from start to end until `is_over`, counting in `scanned`.
fn scan(mut disk: Disk, start: &Barrier, is_over: &AtomicBool, scanned: &AtomicU64) -> std::io::Result<()> {
    start.wait();
    let mut offset = 0;
    while offset < disk.bytes() && !is_over.load(Ordering::Relaxed) {
        let bytes = SCAN_BYTES.min(disk.bytes() - offset);
        disk.read(offset, bytes as usize)?;
        offset += bytes;
        scanned.store(offset, Ordering::Relaxed);
    }
    Ok(())
}

/// The digest that all clients have; the number of the first that has another.
fn agreed_digest(clients: &[Booted]) -> Result<Option<String>, u32> {
    let Some(first) = clients.first().and_then(|client| client.digest) else { return Ok(None) };
    match clients.iter().position(|client| client.digest != Some(first)) {
        Some(at) => Err(at as u32 + 1),
        None => Ok(Some(first.to_hex().to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storm(clients: u32) -> Storm {
        Storm { clients, think: true, scan: true, page_cache: true, digest: true }
    }

    /// Clients and scan on a file with every kind of alignment: the digest is that of the bytes.
    #[test]
    fn every_client_reads_what_the_trace_says() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let content: Vec<u8> = (0u32..300_000).flat_map(u32::to_le_bytes).collect();
        std::fs::write(&path, &content).unwrap();
        let ranges = [(0, 512), (4095, 2), (1_199_999, 1), (8192, 65_536), (700_001, 100_000)];
        let reads = ranges.map(|(offset, bytes)| Read { think: Duration::from_micros(700), offset, bytes });
        let trace = Trace::new(1_200_000, None, reads.to_vec()).unwrap();
        let mut hasher = blake3::Hasher::new();
        ranges.iter().for_each(|(offset, bytes)| {
            hasher.update(&content[*offset as usize..(offset + bytes) as usize]);
        });
        for page_cache in [true, false] {
            let outcome = replay(&Target::Path(path.clone()), &trace, &Storm { page_cache, ..storm(3) }).unwrap();
            assert_eq!(outcome.digest, Some(hasher.finalize().to_hex().to_string()));
            assert_eq!((outcome.done.len(), outcome.latencies_us.len()), (3, 15));
            assert_eq!(outcome.bytes, 3 * trace.bytes());
            assert!(outcome.done_at(1.0) >= Duration::from_millis(2), "nobody thought");
        }
    }

    #[test]
    fn a_disk_that_ends_before_the_trace_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        std::fs::write(&path, [0; 4096]).unwrap();
        let trace = Trace::new(8192, None, vec![Read { think: Duration::ZERO, offset: 4096, bytes: 512 }]).unwrap();
        let error = replay(&Target::Path(path), &trace, &storm(1)).unwrap_err();
        assert!(matches!(error, StormError::TooSmall { trace_bytes: 4608, disk_bytes: 4096, .. }), "{error}");
        assert!(error.is_permanent());
    }

    #[test]
    fn too_many_clients_are_refused() {
        let trace = Trace::debian();
        for clients in [0, CLIENTS_MAX + 1] {
            let error = replay(&Target::Path("/dev/null".into()), &trace, &storm(clients)).unwrap_err();
            assert!(matches!(error, StormError::TooMuch(_)), "{error}");
        }
    }
}
