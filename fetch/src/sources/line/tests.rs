//! Lines of any speed, on paper: which codec carries most is found, kept, and doubted.

use std::collections::VecDeque;

use super::*;

/// How fast each codec carries plain bytes over some line, in MB/s; other codecs are not used.
type Rates = [f64; 4];
/// On one processor lz4 packs 1,100 MB/s to 0.6 and zstd 780 MB/s to 0.55, harder 140 to 0.53.
fn line_of(megabytes: f64) -> Rates {
    [megabytes, (megabytes / 0.6).min(1_100.0), (megabytes / 0.55).min(780.0), (megabytes / 0.53).min(140.0)]
}

/// What 2 MB travel as.
const PACKED: [u64; 4] = [2_000_000, 1_200_000, 1_100_000, 1_060_000];

/// Requests of 2 MiB one after the other until `bytes` came; the share that each codec carried.
async fn stream(line: &Line, rates: Rates, megabytes: u64) -> [f64; 4] {
    let (mut shares, mut travelled) = ([0.0; 4], line.lock().travelled[1]);
    for _ in 0..megabytes / 2 {
        let codec = line.begin();
        let place = WAYS.iter().position(|it| *it == codec).unwrap();
        tokio::time::advance(Duration::from_secs_f64(2e6 / (rates[place] * 1e6))).await;
        travelled += PACKED[place];
        line.carried(codec, 2_000_000, travelled);
        line.end(codec);
        shares[place] += 2.0 / megabytes as f64;
        // Nobody asks for anything: that says nothing of the line.
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    shares
}

/// The same by four requests at a time, which share the line.
async fn crowd(line: &Line, rates: Rates, megabytes: u64) -> [f64; 4] {
    let (mut shares, mut travelled) = ([0.0; 4], line.lock().travelled[1]);
    let mut under_way: VecDeque<Way> = (0..4).map(|_| line.begin()).collect();
    for _ in 0..megabytes / 2 {
        let way = under_way.pop_front().unwrap();
        let place = WAYS.iter().position(|it| *it == way).unwrap();
        tokio::time::advance(Duration::from_secs_f64(2e6 / (rates[place] * 1e6))).await;
        travelled += PACKED[place];
        line.carried(way, 2_000_000, travelled);
        line.end(way);
        shares[place] += 2.0 / megabytes as f64;
        under_way.push_back(line.begin());
    }
    under_way.into_iter().for_each(|way| line.end(way));
    shares
}

#[tokio::test(start_paused = true)]
async fn a_slow_line_that_is_full_is_squeezed_harder() {
    let line = Line::new(false, None);
    crowd(&line, line_of(12.5), 20).await;
    let shares = crowd(&line, line_of(12.5), 1_000).await;
    assert!(shares[3] > 0.9, "{shares:?}");
}

#[tokio::test(start_paused = true)]
async fn the_codec_that_carries_most_is_found_and_kept() {
    for (megabytes, best) in [(5.0, 2), (12.5, 2), (118.0, 2), (1_000.0, 1), (3_000.0, 0)] {
        let line = Line::new(false, None);
        stream(&line, line_of(megabytes), 2_000).await;
        let shares = stream(&line, line_of(megabytes), 4_000).await;
        assert!(shares[best] > 0.9, "{megabytes} MB/s: {shares:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_line_is_squeezed_within_the_first_megabytes() {
    let shares = stream(&Line::new(false, None), line_of(12.5), 50).await;
    assert!(shares[2] > 0.6, "{shares:?}");
}

#[tokio::test(start_paused = true)]
async fn on_a_slow_line_nothing_else_is_tried_any_more() {
    let line = Line::new(false, None);
    stream(&line, line_of(12.5), 50).await;
    let shares = stream(&line, line_of(12.5), 2_000).await;
    assert_eq!(shares[..2], [0.0; 2], "{shares:?}");
}

/// Requests of 2 MB by four at a time, until 40 MB came; how blocks travel then. `carry` says how many seconds a request takes
/// and how many bytes of it travel.
async fn by_four(line: &Line, carry: impl Fn(Way) -> (f64, u64)) -> Way {
    let mut under_way: VecDeque<Way> = (0..4).map(|_| line.begin()).collect();
    let mut sent = 0;
    for _ in 0..20 {
        let way = under_way.pop_front().unwrap();
        let (seconds, travelled) = carry(way);
        tokio::time::advance(Duration::from_secs_f64(seconds)).await;
        sent += travelled;
        line.carried(way, 2_000_000, sent);
        line.end(way);
        under_way.push_back(line.begin());
    }
    line.begin()
}

/// The same over a line of so many MB/s, three times as much as which comes: it is the line that is slow.
async fn differences(line: &Line, megabytes: f64) -> Way {
    by_four(line, |_| (2.0 / 3.0 / megabytes, 2_000_000 / 3)).await
}

/// Where blocks can travel against a version that is here, a slow line has them do so, and only then.
#[tokio::test(start_paused = true)]
async fn a_slow_line_carries_differences_where_it_can() {
    for (has_base, best) in [(true, Way::Matched), (false, Way::By(Codec::Zstd6))] {
        assert_eq!(differences(&Line::new(has_base, None), 12.5).await, best);
    }
}

/// Whoever asks the same source again begins with what suited it, and with differences once there is a version to differ from.
#[tokio::test(start_paused = true)]
async fn what_was_learned_of_a_line_is_not_learned_again() {
    let way_after = |habit, has_base| Line::new(has_base, habit).begin();
    let before = Line::new(false, None);
    assert_eq!(before.habit(), None);
    crowd(&before, line_of(12.5), 200).await;
    assert_eq!(way_after(before.habit(), true), Way::Matched);
    assert_eq!(differences(&Line::new(true, before.habit()), 12.5).await, Way::Matched);
    // A transfer that is over before it was fast takes nothing from that, nor does one that was never measured.
    let short = Line::new(true, before.habit());
    assert_eq!(short.habit(), before.habit());
    assert_eq!(differences(&short, 10.0).await, Way::Matched);
    assert_eq!(short.habit(), before.habit());
    assert_eq!(way_after(before.habit(), false), Way::By(Codec::Zstd6));
    let fast = Line::new(false, None);
    stream(&fast, line_of(3_000.0), 2_000).await;
    assert_eq!(way_after(fast.habit(), true), Way::By(Codec::None));
    // It is no promise: a line that was slow and is fast now is found out, with a version to differ from at once.
    assert_ne!(differences(&Line::new(true, before.habit()), 118.0).await, Way::Matched);
    // So is a source that has no time to pack against anything, while little travels because that takes it so long …
    let busy = |way| if way == Way::Matched { (2.0 / 60.0, 500_000) } else { (2.0 / 200.0, 900_000) };
    assert_ne!(by_four(&Line::new(true, before.habit()), busy).await, Way::Matched);
    // … and a line that became slower is a slow one.
    assert_eq!(differences(&Line::new(true, before.habit()), 4.0).await, Way::Matched);
    let line = Line::new(false, before.habit());
    stream(&line, line_of(3_000.0), 8_000).await;
    let shares = stream(&line, line_of(3_000.0), 4_000).await;
    assert!(shares[0] > 0.9, "{shares:?}");
}

/// The first blocks wait for the source's disk and its processors to wake: that is no slow line.
#[tokio::test(start_paused = true)]
async fn what_begins_slowly_is_not_taken_for_a_slow_line() {
    for has_base in [true, false] {
        let line = Line::new(has_base, None);
        let mut under_way: VecDeque<Way> = (0..4).map(|_| line.begin()).collect();
        for request in 1..30 {
            let seconds = if request <= 2 { 0.1 } else { 0.01 };
            tokio::time::advance(Duration::from_secs_f64(seconds)).await;
            let way = under_way.pop_front().unwrap();
            assert!(!matches!(way, Way::Matched | Way::By(Codec::Zstd6)), "{way:?}");
            line.carried(way, 2_500_000, request * 2_500_000 / 2);
            line.end(way);
            under_way.push_back(line.begin());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_line_that_changes_is_noticed() {
    let line = Line::new(false, None);
    stream(&line, line_of(3_000.0), 1_000).await;
    assert_eq!(line.begin(), Way::By(Codec::None));
    line.end(Way::By(Codec::None));
    stream(&line, line_of(12.5), 4_000).await;
    let shares = stream(&line, line_of(12.5), 2_000).await;
    assert!(shares[2] + shares[3] > 0.8, "{shares:?}");
}

/// Packing that is slower than the line makes the line look slow: that must not lead to more packing.
#[tokio::test(start_paused = true)]
async fn busy_processors_are_not_taken_for_a_slow_line() {
    let line = Line::new(false, None);
    let busy = [120.0, 60.0, 30.0, 10.0];
    stream(&line, busy, 1_000).await;
    let shares = stream(&line, busy, 2_000).await;
    assert!(shares[0] > 0.9, "{shares:?}");
}

/// A master that packs for many at a time.
#[tokio::test(start_paused = true)]
async fn who_has_no_time_to_pack_is_not_asked_to_pack_harder_for_ever() {
    let line = Line::new(false, None);
    let busy = [24.0, 22.0, 20.0, 9.0];
    let early = crowd(&line, busy, 100).await;
    assert!(early[3] > 0.5, "it looks like a slow line: {early:?}");
    crowd(&line, busy, 1_000).await;
    let shares = crowd(&line, busy, 2_000).await;
    assert!(shares[3] < 0.05, "{shares:?}");
}

/// Misses one by one, of which every tenth also waits for a disk.
#[tokio::test(start_paused = true)]
async fn short_runs_settle_within_few_and_in_spite_of_others_waits() {
    let line = Line::short();
    let mut raw = 0;
    for miss in 0..400u64 {
        let codec = line.begin();
        let us = if codec == Way::By(Codec::None) { 200 } else { 250 } + if miss % 10 == 3 { 2_000 } else { 0 };
        tokio::time::advance(Duration::from_micros(us)).await;
        line.carried(codec, 64 << 10, (miss + 1) * (64 << 10));
        line.end(codec);
        tokio::time::advance(Duration::from_millis(1)).await;
        raw += u32::from(codec == Way::By(Codec::None));
    }
    assert!(raw > 300, "{raw} of 400");
}

/// Thirty clients at a time on a slow line: most ends follow each other closely, and the long gaps are the line's.
#[tokio::test(start_paused = true)]
async fn a_slow_line_that_many_share_is_squeezed() {
    let line = Line::short();
    let (mut packed, mut travelled) = (0, 0);
    for _ in 0..40 {
        let codecs: Vec<Way> = (0..30).map(|_| line.begin()).collect();
        for (at, codec) in codecs.iter().enumerate() {
            // They come in bursts of ten.
            let ms = if at % 10 == 9 { 50 } else { 0 };
            tokio::time::advance(Duration::from_millis(ms)).await;
            travelled += 32 << 10;
            line.carried(*codec, 64 << 10, travelled);
            line.end(*codec);
            packed += u32::from(*codec == Way::By(Codec::Zstd));
        }
    }
    assert!(packed > 1_100, "{packed} of 1200");
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_an_earlier_codec_is_not_counted() {
    let line = Line::new(false, None);
    let codec = line.begin();
    let lasting = line.begin();
    assert_eq!(codec, lasting);
    tokio::time::advance(Duration::from_millis(100)).await;
    line.carried(codec, 8 << 20, 8 << 20);
    line.end(codec);
    let tried = line.begin();
    assert_ne!(tried, codec, "a trial begins");
    tokio::time::advance(Duration::from_millis(100)).await;
    line.carried(tried, 8 << 20, 16 << 20);
    line.end(tried);
    let still = line.begin();
    assert_eq!(still, tried, "what was measured while the earlier request went on is worth nothing");
    line.end(lasting);
    tokio::time::advance(Duration::from_millis(100)).await;
    line.carried(still, 8 << 20, 24 << 20);
    line.end(still);
    assert_eq!(line.begin(), codec, "the chosen one is measured again");
}
