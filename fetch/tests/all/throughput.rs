//! How fast one stream of blocks comes from loopback to verified: printed, not judged.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use icbd_fetch::{BlockRequest, HttpSource, RunRequest, Settings, Source, Sources, TimeOuts, Urgency, Way};
use icbd_image::{BLOCK_BYTES, FileIndex, Hash, Root, Run};
use icbd_wire::{Check, Codec, FrameEncoder, encode_run};
use tokio::runtime::Builder;

use crate::parrot::{OCTETS, Parrot, response};
use crate::support::fill;

const BLOCKS: u32 = 512;
const ROUNDS: u32 = 4;

/// `cargo test -p icbd-fetch --release throughput -- --nocapture` shows it.
#[test]
fn throughput_of_one_stream() {
    let mut disk = vec![0; (u64::from(BLOCKS) * BLOCK_BYTES) as usize];
    fill(&mut disk, 1);
    let disk = Bytes::from(disk);
    let hashes: Vec<Hash> = disk.chunks(BLOCK_BYTES as usize).map(Hash::of).collect();
    // The server has a thread of its own, so that what this thread needs is what fetching needs.
    let there = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let here = Builder::new_current_thread().enable_all().build().unwrap();
    for codec in Codec::ALL {
        let run = Run { root: Root::from_bytes([1; 32]), file: FileIndex::ROOT, first: 0, count: BLOCKS };
        let request = BlockRequest {
            run,
            file_bytes: disk.len() as u64,
            way: Way::By(codec),
            urgency: Urgency::Demand,
            check: Check::Receiver,
        };
        // Packed beforehand.
        let parrot = there.block_on(Parrot::start(response("200 OK", OCTETS, &pack(&run, codec, &disk)), false));
        let http: Arc<dyn Source> =
            Arc::new(HttpSource::new(&parrot.url, TimeOuts::default()).unwrap().with_codec(codec));
        let sources = Arc::new(Sources::new(vec![http.clone()], Settings::default()));
        let wish = RunRequest { run, file_bytes: request.file_bytes, urgency: Urgency::Demand };
        let decode = async || {
            let blocks = http.blocks(&request).await.unwrap();
            assert_eq!(blocks.try_fold(0, async |count, _| Ok(count + 1)).await, Ok(BLOCKS));
        };
        let verify = async || {
            let blocks = sources.blocks(wish, hashes.clone(), None);
            assert_eq!(blocks.filter(|block| std::future::ready(block.is_ok())).count().await, BLOCKS as usize);
        };
        here.block_on(measure(codec, "decoded", decode));
        here.block_on(measure(codec, "verified", verify));
    }
}

async fn measure(codec: Codec, what: &str, fetch: impl AsyncFn()) {
    fetch().await;
    let (started, thread_started) = (Instant::now(), thread_seconds());
    for _ in 0..ROUNDS {
        fetch().await;
    }
    let megabytes = (u64::from(BLOCKS * ROUNDS) * BLOCK_BYTES) as f64 / 1e6;
    let (wall, thread) = (started.elapsed().as_secs_f64(), thread_seconds() - thread_started);
    println!("{codec} {what}: {:.0} MB/s, {:.0} MB for a second of CPU", megabytes / wall, megabytes / thread);
}

/// What this thread has had of a CPU: on a busy machine the wall clock says little.
fn thread_seconds() -> f64 {
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    statistics.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

fn pack(run: &Run, codec: Codec, disk: &Bytes) -> Vec<u8> {
    let mut frames = Vec::new();
    let read = |first: u64, bytes: &mut [u8]| {
        bytes.copy_from_slice(&disk[(first * BLOCK_BYTES) as usize..][..bytes.len()]);
        Ok::<_, Infallible>(())
    };
    let file_bytes = disk.len() as u64;
    let Ok(()) = encode_run(&mut FrameEncoder::new(), run, file_bytes, codec, |_| false, read, &mut frames);
    frames
}
