//! How fast one stream of blocks comes from loopback to verified: printed, not judged.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use icbd_fetch::{BlockRequest, HttpSource, Settings, Source, Sources, TimeOuts};
use icbd_image::{BLOCK_BYTES, FileIndex, Hash, Root, Run};
use icbd_wire::{Codec, encode_run};

use crate::parrot::{OCTETS, Parrot, response};
use crate::support::fill;

const BLOCKS: u32 = 1024;
const ROUNDS: u32 = 4;

/// `cargo test -p icbd-fetch --release throughput -- --nocapture` shows it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn throughput_of_one_stream() {
    let mut disk = vec![0; (u64::from(BLOCKS) * BLOCK_BYTES) as usize];
    fill(&mut disk, 1);
    let disk = Bytes::from(disk);
    let hashes: Vec<Hash> = disk.chunks(BLOCK_BYTES as usize).map(Hash::of).collect();
    for codec in Codec::ALL {
        let run = Run { root: Root::from_bytes([1; 32]), file: FileIndex::ROOT, first: 0, count: BLOCKS };
        // Packed beforehand: what is measured is this end.
        let parrot = Parrot::start(response("200 OK", OCTETS, &pack(&run, codec, &disk)), false).await;
        let http: Arc<dyn Source> = Arc::new(HttpSource::new(&parrot.url, TimeOuts::default()).unwrap());
        let sources = Arc::new(Sources::new(vec![http.clone()], Settings::default()));
        let request = BlockRequest { run, file_bytes: disk.len() as u64, codec };
        let started = Instant::now();
        for _ in 0..ROUNDS {
            let blocks = http.blocks(&request).await.unwrap();
            assert_eq!(blocks.try_fold(0, async |count, _| Ok(count + 1)).await, Ok(BLOCKS));
        }
        print(codec, "decoded", started);
        let started = Instant::now();
        for _ in 0..ROUNDS {
            let blocks = sources.blocks(request, hashes.clone());
            assert_eq!(blocks.filter(|block| std::future::ready(block.is_ok())).count().await, BLOCKS as usize);
        }
        print(codec, "verified", started);
    }
}

fn print(codec: Codec, what: &str, started: Instant) {
    let bytes = (u64::from(BLOCKS * ROUNDS) * BLOCK_BYTES) as f64;
    println!("{codec} {what}: {:.0} MB/s", bytes / 1e6 / started.elapsed().as_secs_f64());
}

fn pack(run: &Run, codec: Codec, disk: &Bytes) -> Vec<u8> {
    let mut frames = Vec::new();
    let read = |block| {
        let start = (block * BLOCK_BYTES) as usize;
        Ok::<_, ()>(disk.slice(start..start + BLOCK_BYTES as usize))
    };
    encode_run(run, run.first, codec, read, |frame| {
        frames.extend_from_slice(&frame);
        Ok(())
    })
    .unwrap();
    frames
}
