//! Retries, fail-over, fail-back, limits and health, on a clock that the tests move.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use icbd_fetch::testing::{Asked, Fault, FaultySource, MemorySource};
use icbd_fetch::{FetchError, RunRequest, Settings, Source, SourceError, SourceState, Sources, Urgency};
use icbd_image::{RepositoryId, Root};
use tokio::time::Instant;

use crate::support::Fixture;

/// Two sources, each with faults to come.
struct Pair {
    fixture: Fixture,
    first: Arc<FaultySource>,
    second: Arc<FaultySource>,
    both: Arc<Sources>,
}

impl Pair {
    fn new() -> Pair {
        let fixture = Fixture::new();
        let first = Arc::new(FaultySource::new(fixture.memory.clone()));
        let second = Arc::new(FaultySource::new(fixture.memory.clone()));
        let both = Arc::new(Sources::new(vec![first.clone(), second.clone()], Settings::default()));
        Pair { fixture, first, second, both }
    }

    fn requests(&self) -> (u64, u64) {
        (self.first.requests(), self.second.requests())
    }

    fn is_online(&self, place: usize) -> bool {
        !matches!(self.both.health()[place].state, SourceState::Offline { .. })
    }
}

/// A head is asked for: the smallest whole request.
async fn head(sources: &Sources, fixture: &Fixture) -> Result<(), FetchError> {
    sources.head(fixture.root()).await.map(|head| assert_eq!(head.root(), fixture.root()))
}

#[tokio::test(start_paused = true)]
async fn a_passing_failure_is_retried() {
    let pair = Pair::new();
    pair.first.script([Some(Fault::Broken), Some(Fault::Unreachable), None]);
    head(&pair.both, &pair.fixture).await.unwrap();
    assert_eq!(pair.requests(), (3, 0));
    assert!(pair.is_online(0));
}

/// The source that tests stand on does what it says: a request that is scripted to go well does.
#[tokio::test(start_paused = true)]
async fn a_script_counts_for_more_than_the_usual_fault() {
    let (fixture, settings) = (Fixture::new(), Settings { tries_max: 1, ..Settings::default() });
    let source = Arc::new(FaultySource::new(fixture.memory.clone()));
    let sources = Sources::new(vec![source.clone()], settings);
    source.set(Some(Fault::Broken));
    source.script([None, Some(Fault::Absent)]);
    assert!(head(&sources, &fixture).await.is_ok());
    assert!(head(&sources, &fixture).await.unwrap_err().to_string().contains("no such thing"));
    assert!(head(&sources, &fixture).await.unwrap_err().to_string().contains("500"));
}

#[tokio::test(start_paused = true)]
async fn what_is_absent_is_asked_for_once() {
    let pair = Pair::new();
    let error = pair.both.head(Root::from_bytes([3; 32])).await.unwrap_err();
    assert_eq!(pair.requests(), (1, 1));
    assert!(error.is_permanent() && error.to_string().contains("no such thing"), "{error}");
    assert!(pair.is_online(0) && pair.is_online(1));
}

#[tokio::test(start_paused = true)]
async fn fails_over_and_back() {
    let pair = Pair::new();
    pair.first.set(Some(Fault::Unreachable));
    head(&pair.both, &pair.fixture).await.unwrap();
    assert_eq!(pair.requests(), (3, 1));
    assert!(!pair.is_online(0) && pair.is_online(1));
    // It is passed over while it cools down,
    head(&pair.both, &pair.fixture).await.unwrap();
    assert_eq!(pair.requests(), (3, 2));
    // tried again after that, longer and longer,
    for cool_down in [500, 1000, 2000, 4000, 5000, 5000] {
        tokio::time::advance(Duration::from_millis(cool_down - 1)).await;
        let before = pair.first.requests();
        head(&pair.both, &pair.fixture).await.unwrap();
        assert_eq!(pair.first.requests(), before, "{cool_down}");
        tokio::time::advance(Duration::from_millis(1)).await;
        head(&pair.both, &pair.fixture).await.unwrap();
        assert!(pair.first.requests() > before, "{cool_down}");
    }
    // and preferred as soon as it is back.
    pair.first.set(None);
    tokio::time::advance(Duration::from_secs(5)).await;
    let before = pair.requests();
    head(&pair.both, &pair.fixture).await.unwrap();
    assert_eq!(pair.requests(), (before.0 + 1, before.1));
    assert!(pair.is_online(0));
}

#[tokio::test(start_paused = true)]
async fn a_silent_source_costs_one_time_out_and_is_then_left_to_the_listing() {
    let pair = Pair::new();
    pair.first.set(Some(Fault::NeverAnswers));
    let started = Instant::now();
    head(&pair.both, &pair.fixture).await.unwrap();
    assert_eq!(started.elapsed().as_secs(), 10);
    tokio::time::advance(Duration::from_secs(60)).await;
    let started = Instant::now();
    head(&pair.both, &pair.fixture).await.unwrap();
    assert_eq!(started.elapsed(), Duration::ZERO);
    pair.first.set(None);
    pair.both.listing().await.unwrap();
    assert!(pair.is_online(0));
}

#[tokio::test(start_paused = true)]
async fn one_request_probes_a_lone_source_for_all() {
    let fixture = Fixture::new();
    let source = Arc::new(FaultySource::new(fixture.memory.clone()));
    let sources = Arc::new(Sources::new(vec![source.clone()], Settings::default()));
    source.set(Some(Fault::NeverAnswers));
    assert!(!head(&sources, &fixture).await.unwrap_err().is_permanent());
    tokio::time::advance(Duration::from_secs(1)).await;
    let before = source.requests();
    let ask = async || head(&sources, &fixture).await.unwrap_err();
    futures_util::future::join_all((0..50).map(|_| ask())).await;
    assert_eq!(source.requests(), before + 1);
    // Whoever was to probe and went away is replaced.
    tokio::time::advance(Duration::from_secs(60)).await;
    source.set(Some(Fault::Held));
    let probe = tokio::time::timeout(Duration::from_secs(1), head(&sources, &fixture)).await;
    assert!(probe.is_err());
    source.set(None);
    head(&sources, &fixture).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_pause_ends_when_the_source_is_back() {
    let fixture = Fixture::new();
    let source = Arc::new(FaultySource::new(fixture.memory.clone()));
    let sources = Arc::new(Sources::new(vec![source.clone()], Settings::default()));
    source.set(Some(Fault::Unreachable));
    head(&sources, &fixture).await.unwrap_err();
    // Two hundred wait, as a cache does; one of them at a time asks.
    let waiter = |_| {
        let (sources, root) = (sources.clone(), fixture.root());
        tokio::spawn(async move {
            for rounds in 1.. {
                if sources.head(root).await.is_ok() {
                    return rounds;
                }
                sources.pause(rounds).await;
            }
            unreachable!()
        })
    };
    let waiters: Vec<_> = (0..200).map(waiter).collect();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let asked = source.requests();
    // 14 cool-downs have passed; each ended with a probe of 3 tries.
    assert!((35..=50).contains(&asked), "{asked}");
    source.set(None);
    let back = Instant::now();
    for waiter in waiters {
        assert!(waiter.await.unwrap() < 30);
    }
    assert!(back.elapsed() <= Duration::from_secs(6));
}

#[tokio::test(start_paused = true)]
async fn a_pause_after_a_broken_answer_backs_off() {
    let fixture = Fixture::new();
    let sources = Sources::new(vec![fixture.memory.clone()], Settings::default());
    let started = Instant::now();
    for rounds in 1..=40 {
        sources.pause(rounds).await;
    }
    let waited = started.elapsed();
    assert!((Duration::from_secs(60)..Duration::from_secs(40 * 30)).contains(&waited), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn requests_in_flight_are_limited_and_given_back() {
    let fixture = Fixture::new();
    let source = Arc::new(FaultySource::new(fixture.memory.clone()));
    let settings = Settings { requests_max: 2, ..Settings::default() };
    let sources = Arc::new(Sources::new(vec![source.clone()], settings));
    source.set(Some(Fault::Held));
    let request = fixture.wish(0, 40);
    let streams = (0..5).map(|_| {
        let mut blocks = sources.blocks(request, fixture.hashes(&request.run), None);
        tokio::spawn(async move { blocks.next().await.unwrap().unwrap() })
    });
    let streams: Vec<_> = streams.collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((sources.health()[0].in_flight, source.requests()), (2, 2));
    for stream in &streams {
        stream.abort();
    }
    for stream in streams {
        assert!(stream.await.unwrap_err().is_cancelled());
    }
    assert_eq!(sources.health()[0].in_flight, 0);
    source.set(None);
    head(&sources, &fixture).await.unwrap();
}

/// A slow source: prefetch and readahead have all they may have, and neither a reader nor a lookup waits for them,
/// nor the one for the other.
#[tokio::test(start_paused = true)]
async fn who_waits_never_waits_behind_what_nobody_waits_for() {
    let fixture = Fixture::new();
    let source = Arc::new(FaultySource::new(fixture.memory.clone()));
    let sources = Arc::new(Sources::new(vec![source.clone()], Settings::default()));
    source.set(Some(Fault::Held));
    let request = |urgency| RunRequest { urgency, ..fixture.wish(0, 40) };
    let start = |urgency| {
        let mut blocks = sources.blocks(request(urgency), fixture.hashes(&request(urgency).run), None);
        tokio::spawn(async move { blocks.next().await.unwrap().unwrap() })
    };
    let mut held = Vec::new();
    for (urgency, expected) in [(Urgency::Prefetch, 2), (Urgency::Readahead, 4)] {
        held.extend((0..40).map(|_| start(urgency)));
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(source.requests(), expected, "{urgency:?}");
    }
    assert_eq!(sources.asked_blocks(), 16, "the first window, and another for the more urgent");
    // From now on what is asked is answered; what was asked before waits on.
    source.set(Some(Fault::Delay(Duration::ZERO)));
    start(Urgency::Demand).await.unwrap();
    head(&sources, &fixture).await.unwrap();
    for stream in held {
        stream.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_one_thing_takes_no_source_away() {
    let pair = Pair::new();
    for fault in [Fault::Broken, Fault::WrongHash, Fault::WrongLength, Fault::HalfBody, Fault::Absent] {
        pair.first.set(Some(fault));
        head(&pair.both, &pair.fixture).await.unwrap();
        assert!(pair.is_online(0), "{fault:?}");
    }
    pair.first.set(Some(Fault::Html));
    head(&pair.both, &pair.fixture).await.unwrap();
    assert!(!pair.is_online(0));
}

#[tokio::test(start_paused = true)]
async fn a_listing_is_given_once_and_names_its_source() {
    let old = Arc::new(MemorySource::with_repository("old", RepositoryId::from_bytes([1; 16])));
    let new = Arc::new(MemorySource::with_repository("new", RepositoryId::from_bytes([2; 16])));
    let faulty = Arc::new(FaultySource::new(new.clone()));
    let sources = Sources::new(vec![faulty.clone(), old.clone()], Settings::default());
    let listed = async || sources.listing().await.unwrap().map(|listed| listed.source);
    assert_eq!(listed().await.as_deref(), Some("new"));
    assert_eq!(listed().await, None);
    new.publish("debian", &[]);
    assert_eq!(listed().await.as_deref(), Some("new"));
    faulty.set(Some(Fault::Unreachable));
    assert_eq!(listed().await.as_deref(), Some("old"));
    assert_eq!(listed().await, None);
    faulty.set(None);
    tokio::time::advance(Settings::default().cool_down_max).await;
    assert_eq!(listed().await.as_deref(), Some("new"));
    assert_eq!(listed().await, None);
}

#[tokio::test(start_paused = true)]
async fn health_and_errors_say_what_happened() {
    let pair = Pair::new();
    assert_eq!(pair.both.health()[0].state, SourceState::Untried);
    let mut changed = pair.both.changed();
    pair.first.set(Some(Fault::Html));
    pair.second.set(Some(Fault::Unreachable));
    let error = head(&pair.both, &pair.fixture).await.unwrap_err();
    let root = pair.fixture.root().short();
    let says = format!(
        "the head of version {root} cannot be fetched: \
         memory: it answers HTML: is this an icbd master? check the source's URL; \
         memory: it cannot be reached: connection refused"
    );
    assert_eq!(error.to_string(), says);
    assert!(!error.is_permanent());
    assert!(changed.has_changed().unwrap());
    changed.borrow_and_update();
    let SourceState::Offline { error, .. } = &pair.both.health()[1].state else { panic!("online") };
    assert!(error.contains("connection refused"));
    let error = head(&pair.both, &pair.fixture).await.unwrap_err();
    assert!(error.to_string().contains("passed over for another 0.5 s"), "{error}");

    let nobody = Sources::new(Vec::new(), Settings::default());
    let error = head(&nobody, &pair.fixture).await.unwrap_err();
    assert!(error.is_permanent() && error.to_string().contains("--master URL"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn pages_of_zeros_are_not_asked_for() {
    let memory = Arc::new(MemorySource::new("memory"));
    let root = memory.publish("debian", &[("zeros", vec![0; 17 << 16].into())]).root();
    let sources = Sources::new(vec![memory.clone()], Settings::default());
    let head = memory.head_of(root);
    let page = sources.page(&head, head.resolve(b"zeros").unwrap(), 0).await.unwrap();
    assert!(page.hash(16).unwrap().is_zero());
    assert_eq!(memory.take_asked(), Vec::<Asked>::new());

    let fixture = Fixture::new();
    let sources = Sources::new(vec![fixture.memory.clone()], Settings::default());
    let page = sources.page(&fixture.head, fixture.disk_index, 1).await.unwrap();
    assert_eq!(page.blocks(), 52);
    assert_eq!(fixture.memory.take_asked(), [Asked::Page(fixture.root(), fixture.disk_index, 1)]);
    assert_eq!(fixture.memory.listing(None).await.map(|listing| listing.is_some()), Ok::<_, SourceError>(true));
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_could_not_be_kept_is_given_again() {
    let source = Arc::new(MemorySource::new("master"));
    source.publish("lab", &[("a", bytes::Bytes::new())]);
    let sources = Sources::new(vec![source], Settings::default());
    let first = sources.listing().await.unwrap();
    assert!(first.is_some() && sources.listing().await.unwrap().is_none());
    sources.forget_listing();
    assert_eq!(sources.listing().await.unwrap(), first);
}
