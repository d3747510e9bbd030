//! Runs of blocks under every fault: never a wrong byte, nothing twice, and on to the next source.

use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt};
use icbd_fetch::testing::{Asked, Fault, FaultySource, MemorySource};
use icbd_fetch::{FetchError, HttpSource, Settings, SourceError, Sources, TimeOuts};
use icbd_image::{Hash, Run, VerifiedBlock};

use crate::support::Fixture;

/// Two sources of the same version, told apart by what they were asked for.
struct Pair {
    fixture: Fixture,
    first: Arc<FaultySource>,
    second: Arc<FaultySource>,
    memories: [Arc<MemorySource>; 2],
    both: Arc<Sources>,
}

impl Pair {
    fn new() -> Pair {
        let (fixture, other) = (Fixture::new(), Fixture::new());
        let first = Arc::new(FaultySource::new(fixture.memory.clone()));
        let second = Arc::new(FaultySource::new(other.memory.clone()));
        let both = Arc::new(Sources::new(vec![first.clone(), second.clone()], Settings::default()));
        let memories = [fixture.memory.clone(), other.memory];
        Pair { fixture, first, second, memories, both }
    }

    async fn blocks(&self, first: u64, count: u32) -> Result<Vec<VerifiedBlock>, FetchError> {
        let request = self.fixture.wish(first, count);
        self.both.blocks(request, self.fixture.hashes(&request.run), None).try_collect().await
    }

    /// Fetches a run and compares it.
    async fn check(&self, first: u64, count: u32) {
        self.compare(first, count, &self.blocks(first, count).await.unwrap());
    }

    fn compare(&self, first: u64, count: u32, blocks: &[VerifiedBlock]) {
        assert_eq!(blocks.len(), count as usize);
        for (number, block) in (first..).zip(blocks) {
            assert_eq!(block.index(), number);
            assert!(*block.bytes() == self.fixture.block(number), "block {number}");
        }
    }

    /// The runs that each source was asked for since the last call, as first block and number.
    fn asked(&self) -> [Vec<(u64, u32)>; 2] {
        let run = |asked| match asked {
            Asked::Blocks(Run { first, count, .. }) | Asked::CheckedBlocks(Run { first, count, .. }) => (first, count),
            other => panic!("{other:?}"),
        };
        [0, 1].map(|place: usize| self.memories[place].take_asked().into_iter().map(run).collect())
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_goes_on_at_the_next_source_where_it_broke_off() {
    let pair = Pair::new();
    pair.first.script([Some(Fault::HalfBody), Some(Fault::Unreachable), Some(Fault::Unreachable)]);
    pair.check(0, 40).await;
    assert_eq!(pair.asked(), [vec![(0, 40)], vec![(20, 20)]]);
    assert_eq!(pair.both.health()[0].in_flight + pair.both.health()[1].in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_run_goes_on_at_the_same_source_after_a_passing_failure() {
    let pair = Pair::new();
    pair.first.script([Some(Fault::HalfBody), Some(Fault::HalfBody), None]);
    pair.check(0, 40).await;
    assert_eq!(pair.asked(), [vec![(0, 40), (20, 20), (30, 10)], vec![]]);
}

#[tokio::test(start_paused = true)]
async fn a_stalled_run_goes_elsewhere_at_once() {
    let pair = Pair::new();
    pair.first.set(Some(Fault::Stall));
    pair.check(0, 40).await;
    assert_eq!(pair.asked(), [vec![(0, 40)], vec![(20, 20)]]);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_goes_down_during_a_run_is_left() {
    let pair = Pair::new();
    let request = pair.fixture.wish(0, 40);
    let mut stream = pair.both.blocks(request, pair.fixture.hashes(&request.run), None);
    let mut blocks = vec![stream.next().await.unwrap().unwrap()];
    pair.first.set(Some(Fault::Unreachable));
    blocks.extend(stream.try_collect::<Vec<_>>().await.unwrap());
    pair.compare(0, 40, &blocks);
    assert_eq!(pair.asked(), [vec![(0, 40)], vec![(1, 39)]]);
}

/// A master that is never told would go on to give what its disk spoilt.
#[tokio::test(start_paused = true)]
async fn who_gave_a_wrong_block_is_asked_to_look_until_one_is_right() {
    let pair = Pair::new();
    let (root, file) = (pair.fixture.root(), pair.fixture.disk_index);
    let mut disk = Vec::from(pair.fixture.disk.clone());
    disk[7 << 16] ^= 1;
    pair.memories[0].corrupt(root, file, disk.into());
    pair.check(5, 4).await;
    let run = |first, count| Run { root, file, first, count };
    assert_eq!(pair.memories[0].take_asked(), [Asked::Blocks(run(5, 4)), Asked::CheckedBlocks(run(7, 2))]);
    assert_eq!(pair.memories[1].take_asked(), [Asked::CheckedBlocks(run(7, 2))]);
    pair.check(0, 3).await;
    assert_eq!(pair.memories[0].take_asked(), [Asked::Blocks(run(0, 3))]);
}

#[tokio::test(start_paused = true)]
async fn a_block_with_a_wrong_hash_comes_from_elsewhere_and_is_remembered() {
    let pair = Pair::new();
    // Block 7 of the first source's disk rotted.
    let mut disk = Vec::from(pair.fixture.disk.clone());
    disk[7 << 16] ^= 1;
    pair.memories[0].corrupt(pair.fixture.root(), pair.fixture.disk_index, disk.into());
    pair.check(0, 20).await;
    // It was given a second chance.
    assert_eq!(pair.asked(), [vec![(0, 20), (7, 13)], vec![(7, 13)]]);
    // The next time it is asked for what it has right, up to there.
    pair.check(0, 20).await;
    assert_eq!(pair.asked(), [vec![(0, 7)], vec![(7, 13)]]);
    pair.check(8, 4).await;
    assert_eq!(pair.asked(), [vec![(8, 4)], vec![]]);
    // With nobody else to ask it is asked, and not believed.
    pair.second.set(Some(Fault::Unreachable));
    let error = pair.blocks(7, 1).await.unwrap_err();
    assert!(error.to_string().contains("block 7 has hash"), "{error}");
    pair.asked();
    // A minute later it may have been repaired.
    pair.memories[0].corrupt(pair.fixture.root(), pair.fixture.disk_index, pair.fixture.disk.clone());
    tokio::time::advance(Settings::default().bad_block).await;
    pair.check(0, 20).await;
    assert_eq!(pair.asked(), [vec![(0, 20)], vec![]]);
}

#[tokio::test(start_paused = true)]
async fn zeros_of_a_wrong_length_are_refused() {
    let pair = Pair::new();
    pair.first.set(Some(Fault::WrongLength));
    pair.check(100, 1).await;
    pair.second.set(Some(Fault::WrongLength));
    let error = pair.blocks(100, 1).await.unwrap_err();
    assert!(error.to_string().contains("block 100 has 65535 bytes instead of 65536"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_error_ends_the_stream_after_the_good_blocks() {
    let pair = Pair::new();
    for source in [&pair.first, &pair.second] {
        source.script([Some(Fault::HalfBody)]);
        source.set(Some(Fault::Absent));
    }
    let request = pair.fixture.wish(0, 40);
    let mut stream = pair.both.blocks(request, pair.fixture.hashes(&request.run), None);
    // The first gave half, the second half of the rest.
    for number in 0..30 {
        assert_eq!(stream.next().await.unwrap().unwrap().index(), number);
    }
    let FetchError::Failed { failures, .. } = stream.next().await.unwrap().unwrap_err() else { panic!() };
    assert!(failures.iter().all(|failure| failure.error == SourceError::Absent), "{failures:?}");
    assert!(stream.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_run_longer_than_a_request_is_cut() {
    let pair = Pair::new();
    pair.check(0, 2100).await;
    assert_eq!(pair.asked(), [vec![(0, 1024), (1024, 1024), (2048, 52)], vec![]]);
}

/// Whatever fails and however often: what comes is right, complete and in order, or an error says why.
#[tokio::test(start_paused = true)]
async fn no_fault_yields_a_wrong_byte() {
    let pair = Pair::new();
    let faults = [
        Fault::Unreachable,
        Fault::NeverAnswers,
        Fault::Stall,
        Fault::HalfBody,
        Fault::WrongLength,
        Fault::WrongHash,
        Fault::Html,
        Fault::Absent,
        Fault::Broken,
        Fault::Delay(std::time::Duration::from_secs(3)),
    ];
    let (mut whole, mut failed) = (0, 0);
    for seed in 1..=300 {
        pair.first.throw_dice(140, &faults, seed);
        pair.second.throw_dice(140, &faults, seed + 1000);
        let (first, count) = ((seed * 7) % 60, 1 + (seed as u32 * 13) % 40);
        let request = pair.fixture.wish(first, count);
        let mut stream = pair.both.blocks(request, pair.fixture.hashes(&request.run), None);
        let mut next = first;
        while let Some(item) = stream.next().await {
            let Ok(block) = item else {
                failed += 1;
                break;
            };
            assert_eq!((block.index(), Hash::of(block.bytes())), (next, Hash::of(&pair.fixture.block(next))));
            next += 1;
        }
        whole += u32::from(next == request.run.end());
        assert!(stream.next().await.is_none());
        tokio::time::advance(std::time::Duration::from_secs(seed % 40)).await;
    }
    assert_eq!(whole + failed, 300);
    assert!(whole > 150 && failed > 10, "{whole} whole, {failed} failed");
}

/// Readers that go away at any moment, over real connections, leave nothing behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_runs_give_their_places_back() {
    let fixture = Fixture::new();
    let server = crate::support::Server::start(fixture.memory.clone()).await;
    let http = Arc::new(HttpSource::new(&server.url, TimeOuts::default()).unwrap());
    let sources = Arc::new(Sources::new(vec![http], Settings { requests_max: 4, ..Settings::default() }));
    let request = fixture.wish(0, 40);
    let mut tasks = tokio::task::JoinSet::new();
    for reader in 0..100 {
        let mut blocks = sources.blocks(request, fixture.hashes(&request.run), None);
        // The fifth part reads to the end, the others stop somewhere, also before the first block.
        tasks.spawn(async move {
            for _ in 0..if reader % 5 == 0 { 41 } else { reader % 40 } {
                if blocks.next().await.is_none() {
                    break;
                }
            }
        });
        if reader % 7 == 0 {
            tasks.abort_all();
        }
    }
    while let Some(reader) = tasks.join_next().await {
        assert!(reader.is_ok() || reader.unwrap_err().is_cancelled());
    }
    assert_eq!(sources.health()[0].in_flight, 0);
    let blocks: Vec<_> = sources.blocks(request, fixture.hashes(&request.run), None).try_collect().await.unwrap();
    assert_eq!(blocks.len(), 40);
}
