//! Prefetch orders on clocks, lines, disks and daemons that misbehave.

use std::num::NonZeroU64;
use std::time::Duration;

use bytes::Bytes;
use icbd_fetch::Urgency;
use icbd_fetch::testing::Fault;
use icbd_image::{ImageRef, VersionRecord, VersionState};
use jiff::{SignedDuration, Timestamp};

use super::rig::{BLOCK, PATIENCE, Rig, content};
use crate::disk::memory::MemoryDisk;
use crate::prefetch::{Filler, Flying, Piece};
use crate::{CacheError, Deadline, Order, OrderChange, OrderId, OrderState, OrderStatus, Priority, Verdict, What};

pub(super) fn blocks(count: u64) -> Bytes {
    content(&(1..=count).collect::<Vec<u64>>())
}

pub(super) fn of(record: &VersionRecord, what: What) -> Order {
    Order::of_version(&record.statement.statement().version(), what)
}

pub(super) fn standing(what: What) -> Order {
    Order::new(ImageRef { image: "lab".parse().unwrap(), number: None }, what)
}

/// To be ready in so many seconds.
fn within(order: Order, seconds: i64) -> Order {
    let deadline = Some(Deadline::Once(Timestamp::now() + SignedDuration::from_secs(seconds)));
    Order { deadline, ..order }
}

impl Rig {
    /// Adds an order, and waits until it is known how much is missing.
    pub(super) async fn order(&self, order: Order) -> (OrderId, OrderStatus) {
        let id = self.cache.prefetch_add(order).await.unwrap();
        (id, self.cache.prefetch_look(id, PATIENCE).await.unwrap())
    }

    pub(super) async fn waited(&self, id: OrderId) -> OrderStatus {
        tokio::time::timeout(PATIENCE, self.cache.prefetch_wait(id)).await.unwrap().unwrap()
    }

    /// So many seconds later.
    fn later(&self, seconds: i64) {
        self.cache.orders().clock.advance(seconds);
        self.cache.orders().changed();
    }
}

/// A standing order fetches a new version when it is ready on the master, before it is deployed.
#[tokio::test(flavor = "multi_thread")]
async fn a_standing_order_fetches_what_is_ready_before_it_is_deployed() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let v1 = rig.publish(&[("a", blocks(3))]).await;
    let (id, _) = rig.order(standing(What::All)).await;
    assert!(matches!(rig.waited(id).await.verdict, Verdict::Kept { .. }));
    let v2 = rig.publish(&[("a", blocks(5))]).await;
    let status = rig.waited(id).await;
    assert_eq!((status.state, status.versions), (OrderState::Active, vec![v2.statement.statement().version()]));
    assert!(rig.version(&v1).await.is_complete() && rig.version(&v2).await.is_complete());
    // Two are meant from the deployment on: what runs, and what will.
    let mut listing = rig.master.current_listing();
    (listing.images[0].deployed, listing.images[0].versions[0].state) = (Some(v1.number()), VersionState::Deployed);
    rig.master.set_listing(listing);
    rig.cache.refresh().await.unwrap();
    let versions: Vec<_> = [&v1, &v2].map(|record| record.statement.statement().version()).into();
    assert_eq!(rig.waited(id).await.versions, versions);
    rig.cache.close().await;
}

/// An order with a deadline begins no sooner than it has to, and is done in time.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_waits_until_it_has_to_begin() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let record = rig.publish(&[("a", blocks(4))]).await;
    let (id, status) = rig.order(within(of(&record, What::All), 3600)).await;
    let Verdict::Waits { until } = status.verdict else { panic!("{status:?}") };
    let begins_in = until.duration_since(Timestamp::now()).as_secs();
    assert!((3000..3300).contains(&begins_in), "{begins_in}");
    assert_eq!((status.left_bytes, status.is_surveyed, rig.asked()), (record.data_bytes, true, vec![]));
    rig.later(3300);
    let status = rig.waited(id).await;
    assert!(status.state == OrderState::Done && matches!(status.verdict, Verdict::Kept { .. }), "{status:?}");
    rig.cache.close().await;
}

/// A deadline that cannot be met is said at once, with the best possible time.
#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_cannot_be_met_is_said_at_once() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let record = rig.publish(&[("a", blocks(400))]).await;
    rig.line.set(Some(Fault::Held));
    let order = Order { limit: NonZeroU64::new(1 << 20), ..within(of(&record, What::All), 5) };
    let id = rig.cache.prefetch_add(order).await.unwrap();
    rig.line.set(None);
    let status = rig.cache.prefetch_look(id, PATIENCE).await.unwrap();
    let Verdict::Late { end: Some(end), .. } = status.verdict else { panic!("{status:?}") };
    // 25 MiB at 1 MiB a second.
    let takes = end.duration_since(Timestamp::now()).as_secs();
    assert!((20..28).contains(&takes), "{takes}");
    rig.cache.close().await;
}

/// A line that stops makes the order late, by a new estimate; when it is back, the order goes on by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_slows_down_makes_late_and_back_in_time() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let record = rig.publish(&[("a", blocks(300))]).await;
    // The head comes, and two runs.
    rig.line.script([Some(Fault::Delay(Duration::ZERO)); 3]);
    rig.line.set(Some(Fault::Held));
    let (id, _) = rig.order(within(of(&record, What::All), 60)).await;
    let late = rig.until(id, |status| matches!(status.verdict, Verdict::Late { .. })).await;
    assert!(late.trouble.is_none() && late.left_bytes > 0, "{late:?}");
    // The master dies, and comes back well.
    rig.offline();
    rig.until(id, |status| status.trouble.is_some()).await;
    rig.line.set(None);
    let status = rig.waited(id).await;
    assert!(matches!(status.verdict, Verdict::Kept { .. }), "{status:?}");
    rig.cache.close().await;
}

/// What was under way when the master went away failed once: when it is back the first try brings all.
///
/// Each of those failures was found by a try of its own, and taken for one of the master that was back.
#[tokio::test(flavor = "multi_thread")]
async fn what_failed_in_an_outage_fails_nothing_after_it() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let record = rig.publish(&[("a", blocks(400))]).await;
    let version = rig.version(&record).await;
    version.prepare().await.unwrap();
    let file = rig.file(&record, "a").await;
    file.hashes(0..400).await.unwrap();
    let flying = tokio::sync::Mutex::new(Flying::default());
    let filler = Filler { core: rig.cache.core(), urgency: Urgency::Prefetch, toll: None, flying: &flying };
    let all = || std::iter::once(Piece { file: file.index(), blocks: 0..400 });
    rig.offline();
    for _ in 0..3 {
        let failed = filler.fetch(&version, all()).await;
        assert!(matches!(failed, Err(CacheError::Fetch(_))), "{failed:?}");
    }
    rig.online().await;
    filler.fetch(&version, all()).await.unwrap();
    // A run that failed late is missing still, and the next pass of an order has it.
    filler.fetch(&version, all()).await.unwrap();
    assert!(version.is_complete());
    rig.cache.close().await;
}

/// A promise that was missed is said to whoever waits, and stays missed when all is here.
#[tokio::test(flavor = "multi_thread")]
async fn a_missed_deadline_is_said_and_the_order_goes_on() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let record = rig.publish(&[("a", blocks(4))]).await;
    rig.version(&record).await.prepare().await.unwrap();
    rig.offline();
    let id = rig.cache.prefetch_add(within(of(&record, What::All), 600)).await.unwrap();
    let waits = rig.cache.prefetch_wait(id);
    rig.later(601);
    let status = tokio::time::timeout(PATIENCE, waits).await.unwrap().unwrap();
    assert!(status.state == OrderState::Active && matches!(status.verdict, Verdict::Late { .. }), "{status:?}");
    assert!(rig.cache.status().warnings.iter().any(|warning| warning.contains("late")));
    rig.online().await;
    let status = rig.until(id, OrderStatus::is_complete).await;
    assert!(matches!(status.verdict, Verdict::Missed { .. }), "{status:?}");
    rig.cache.close().await;
}

/// A limit holds, and can be lifted while the order runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_holds_until_it_is_lifted() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let record = rig.publish(&[("a", blocks(200))]).await;
    let order = Order { limit: NonZeroU64::new(2 << 20), ..of(&record, What::All) };
    let id = rig.cache.prefetch_add(order).await.unwrap();
    let running = rig.until(id, |status| status.bytes_per_second > 0).await;
    // A second or two at 2 MiB, and the run that is owed.
    assert!(running.done_bytes <= 6 << 20, "{running:?}");
    assert!(rig.asked().iter().all(|(_, count)| *count <= 8));
    // One that goes on under another limit is said to, at the rate of that one.
    let less = OrderChange { limit: Some(NonZeroU64::new(1 << 20)), ..OrderChange::default() };
    assert!(matches!(rig.cache.prefetch_set(id, less).await.unwrap().verdict, Verdict::Runs { .. }));
    rig.until(id, |status| (1..1_500_000).contains(&status.bytes_per_second)).await;
    rig.cache.prefetch_set(id, OrderChange { limit: Some(None), ..OrderChange::default() }).await.unwrap();
    let lifted = std::time::Instant::now();
    assert_eq!(rig.waited(id).await.state, OrderState::Done);
    assert!(lifted.elapsed() < Duration::from_secs(3), "{:?}", lifted.elapsed());
    rig.cache.close().await;
}

/// Prefetch leaves room on the disk: what somebody reads is still served and kept.
#[tokio::test(flavor = "multi_thread")]
async fn prefetch_stops_before_the_disk_is_full() {
    let rig = Rig::with(MemoryDisk::new(1), |settings| settings.reserve_bytes = Some(1 << 30)).await;
    let (bytes, other) = (blocks(40), content(&[77]));
    let record = rig.publish(&[("a", bytes), ("b", other.clone())]).await;
    rig.disk.set_faults(|faults| faults.free_bytes = Some((1 << 30) - 1));
    let id = rig.cache.prefetch_add(of(&record, What::All)).await.unwrap();
    let stuck = rig.until(id, |status| status.trouble.is_some()).await;
    let why = "1023 MiB are free on the store's disk, and prefetch leaves 1024 MiB for what is read";
    assert!(stuck.trouble.unwrap().starts_with(why));
    assert!(rig.cache.status().warnings.iter().any(|warning| warning.contains(why)));
    assert_eq!(rig.asked(), []);
    let file = rig.file(&record, "b").await;
    assert_eq!(file.read(0, usize::MAX).await.unwrap(), other);
    rig.cache.flush().await;
    assert!(file.is_complete());
    rig.disk.set_faults(|faults| faults.free_bytes = None);
    assert_eq!(rig.waited(id).await.state, OrderState::Done);
    rig.cache.close().await;
}

/// A daemon that is killed in the middle of an order goes on with it, and fetches nothing twice that was durable.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_the_middle_of_an_order_costs_nothing_durable() {
    let mut rig = Rig::new(MemoryDisk::new(1)).await;
    let record = rig.publish(&[("a", blocks(500))]).await;
    let order = Order { priority: Priority::High, limit: NonZeroU64::new(30 << 20), ..of(&record, What::All) };
    let id = rig.cache.prefetch_add(order.clone()).await.unwrap();
    let half = rig.until(id, |status| status.done_bytes >= 8 << 20).await;
    assert!(!half.is_complete());
    rig.offline();
    rig.until(id, |status| status.trouble.is_some()).await;
    rig.cache.flush().await;
    let durable = rig.version(&record).await.residency().durable_bytes;
    let disk = rig.disk.crash();
    rig.asked();
    rig.restart_on(disk).await;
    assert_eq!(rig.cache.prefetch_list()[0].order, order);
    rig.online().await;
    assert_eq!(rig.waited(id).await.state, OrderState::Done);
    let asked: u64 = rig.asked().iter().map(|(_, count)| u64::from(*count)).sum();
    assert_eq!(asked * BLOCK as u64 + durable, 500 * BLOCK as u64);
    rig.cache.close().await;
}

/// Orders keep their terms over a restart; those that are paused stay so, and those that ended.
#[tokio::test(flavor = "multi_thread")]
async fn orders_outlive_the_daemon_with_their_terms() {
    let mut rig = Rig::new(MemoryDisk::new(1)).await;
    let record = rig.publish(&[("a", blocks(4)), ("b", blocks(2))]).await;
    rig.offline();
    let weekly = Order { deadline: Some("mon-fri 08:45".parse().unwrap()), ..standing(What::Boot) };
    let (weekly_id, all) = (rig.cache.prefetch_add(weekly.clone()).await.unwrap(), of(&record, What::All));
    let paused = rig.cache.prefetch_add(all.clone()).await.unwrap();
    rig.cache.prefetch_pause(paused).await.unwrap();
    let change = OrderChange { limit: Some(NonZeroU64::new(1 << 20)), ..OrderChange::default() };
    rig.cache.prefetch_set(paused, change).await.unwrap();
    let file = rig.cache.prefetch_add(of(&record, What::File("b".to_owned()))).await.unwrap();
    let cancelled = rig.cache.prefetch_add(of(&record, What::File("a".to_owned()))).await.unwrap();
    rig.cache.prefetch_cancel(cancelled).await.unwrap();
    let disk = rig.disk.clone();
    rig.restart_on(disk).await;
    rig.online().await;
    let orders = rig.cache.prefetch_list();
    let limited = Order { limit: NonZeroU64::new(1 << 20), ..all };
    assert_eq!(orders.iter().map(|status| status.id).collect::<Vec<_>>(), [weekly_id, paused, file, cancelled]);
    assert_eq!((&orders[0].order, &orders[1].order), (&weekly, &limited));
    assert_eq!((orders[1].state, orders[3].state), (OrderState::Paused, OrderState::Cancelled));
    let status = rig.waited(file).await;
    assert_eq!((status.state, status.total_bytes), (OrderState::Done, 2 * BLOCK as u64 - 100));
    let error = rig.cache.prefetch_resume(cancelled).await.unwrap_err();
    assert!(matches!(error, CacheError::OrderEnded { state: "cancelled", .. }), "{error}");
    rig.cache.prefetch_resume(paused).await.unwrap();
    assert_eq!(rig.waited(paused).await.state, OrderState::Done);
    rig.cache.close().await;
}

/// A deadline that passes while an order is paused is missed, and so it is said when the order goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_passes_in_a_pause_is_missed() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let record = rig.publish(&[("a", blocks(4))]).await;
    let (id, _) = rig.order(within(of(&record, What::All), 3600)).await;
    rig.cache.prefetch_pause(id).await.unwrap();
    rig.later(3601);
    assert_eq!(rig.cache.prefetch_look(id, PATIENCE).await.unwrap().verdict, Verdict::Paused);
    rig.cache.prefetch_resume(id).await.unwrap();
    let status = rig.until(id, OrderStatus::is_complete).await;
    assert!(matches!(status.verdict, Verdict::Missed { .. }), "{status:?}");
    // Of a standing promise those days were taken back.
    let weekly = Order { deadline: Some("mon-sun 08:45".parse().unwrap()), ..standing(What::All) };
    let (id, _) = rig.order(weekly).await;
    rig.cache.prefetch_pause(id).await.unwrap();
    rig.later(3 * 86_400);
    rig.cache.prefetch_resume(id).await.unwrap();
    let status = rig.until(id, OrderStatus::is_complete).await;
    assert!(matches!(status.verdict, Verdict::Kept { .. }), "{status:?}");
    rig.cache.close().await;
}

/// What a change could not be remembered of has not happened.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_is_not_remembered_is_not_made() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let record = rig.publish(&[("a", blocks(4))]).await;
    rig.version(&record).await.prepare().await.unwrap();
    rig.offline();
    let order = Order { limit: NonZeroU64::new(1 << 20), ..of(&record, What::All) };
    let id = rig.cache.prefetch_add(order.clone()).await.unwrap();
    rig.cache.core().catalogue.refuse_writes(true);
    let change = OrderChange { limit: Some(None), priority: Some(Priority::High), ..OrderChange::default() };
    assert!(matches!(rig.cache.prefetch_set(id, change).await, Err(CacheError::Catalogue(_))));
    assert!(matches!(rig.cache.prefetch_cancel(id).await, Err(CacheError::Catalogue(_))));
    rig.cache.core().catalogue.refuse_writes(false);
    let status = &rig.cache.prefetch_list()[0];
    assert_eq!((status.state, &status.order), (OrderState::Active, &order));
    rig.online().await;
    assert_eq!(rig.waited(id).await.state, OrderState::Done);
    rig.cache.close().await;
}

/// What small files take is told by their bytes, not by their blocks.
#[tokio::test(flavor = "multi_thread")]
async fn small_files_are_reckoned_by_their_bytes() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let small = content(&[5]).slice(..2048);
    let files: Vec<(String, Bytes)> = (0..40).map(|at| (format!("{at}"), small.clone())).collect();
    let files: Vec<(&str, Bytes)> = files.iter().map(|(name, bytes)| (&**name, bytes.clone())).collect();
    let record = rig.publish(&files).await;
    let explained = rig.cache.prefetch_explain(of(&record, What::All)).await.unwrap();
    assert_eq!((explained.versions[0].left_bytes, explained.wire_bytes), (40 * 2048, 40 * 2048));
    let (id, status) = rig.order(of(&record, What::File("7".to_owned()))).await;
    assert_eq!(status.total_bytes, 2048);
    let status = rig.waited(id).await;
    assert_eq!((status.done_bytes, status.left_bytes), (2048, 0));
    rig.cache.close().await;
}

/// Who waits for another order is told for which.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_waits_names_the_one_it_waits_for() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let record = rig.publish(&[("a", blocks(300)), ("b", content(&[900]))]).await;
    rig.version(&record).await.prepare().await.unwrap();
    rig.file(&record, "a").await.hashes(0..300).await.unwrap();
    rig.line.set(Some(Fault::Held));
    let first = rig.cache.prefetch_add(of(&record, What::File("a".to_owned()))).await.unwrap();
    rig.until(first, |status| matches!(status.verdict, Verdict::Runs { .. })).await;
    let (waits, _) = rig.order(of(&record, What::File("b".to_owned()))).await;
    rig.until(waits, |status| matches!(status.verdict, Verdict::Queued { behind } if behind == Some(first))).await;
    rig.line.set(None);
    assert_eq!(rig.waited(waits).await.state, OrderState::Done);
    rig.cache.close().await;
}

/// An order that was limited leaves the rest of the line to those behind it, and to others that were limited.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_limited_keeps_nobody_waiting() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let record =
        rig.publish(&[("a", blocks(300)), ("b", blocks(301)), ("c", blocks(302)), ("d", content(&[900]))]).await;
    let file = |name: &str, limit| Order { limit: NonZeroU64::new(limit), ..of(&record, What::File(name.to_owned())) };
    let slow = rig.cache.prefetch_add(file("a", 1 << 20)).await.unwrap();
    rig.until(slow, |status| status.done_bytes > 0).await;
    let free = rig.cache.prefetch_add(file("b", 0)).await.unwrap();
    assert_eq!(rig.waited(free).await.state, OrderState::Done);
    let other = rig.cache.prefetch_add(file("c", 1 << 20)).await.unwrap();
    rig.until(other, |status| status.done_bytes > 0).await;
    // Who is behind both is in nobody's way either.
    let last = rig.cache.prefetch_add(file("d", 0)).await.unwrap();
    assert_eq!(rig.waited(last).await.state, OrderState::Done);
    for id in [slow, other] {
        let status = rig.cache.prefetch_look(id, PATIENCE).await.unwrap();
        assert!(matches!(status.verdict, Verdict::Runs { end: Some(_) }) && !status.is_complete(), "{status:?}");
        rig.until(id, |status| (1..2 << 20).contains(&status.bytes_per_second)).await;
    }
    rig.cache.close().await;
}

/// A deadline is reckoned by what the line gave, however short that was, and not by what an order was limited to.
#[tokio::test(flavor = "multi_thread")]
async fn a_line_is_known_from_what_it_gave() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let record = rig.publish(&[("a", blocks(400)), ("b", blocks(90))]).await;
    let rate = async || rig.cache.prefetch_explain(of(&record, What::All)).await.unwrap().rate;
    assert!(!rate().await.is_measured);
    let id = rig.cache.prefetch_add(of(&record, What::File("a".to_owned()))).await.unwrap();
    assert_eq!(rig.waited(id).await.state, OrderState::Done);
    let measured = rate().await;
    assert!(measured.is_measured && measured.bytes_per_second > 20 << 20, "{measured:?}");
    let limited = Order { limit: NonZeroU64::new(4 << 20), ..of(&record, What::File("b".to_owned())) };
    let id = rig.cache.prefetch_add(limited).await.unwrap();
    assert_eq!(rig.waited(id).await.state, OrderState::Done);
    assert_eq!(rate().await, measured);
    rig.cache.close().await;
}

/// What is damaged at its source keeps nothing else from coming: the order says what is missing and why, ends with no
/// time that cannot be known, and is left alone until a person has mended it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_at_its_source_is_told_and_the_rest_comes() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let record = rig.publish(&[("a", blocks(300))]).await;
    let root = record.statement.statement().root;
    let file = rig.file(&record, "a").await;
    let damaged = [7, 8, 130, 299];
    rig.master.set_damaged(root, file.index(), &damaged);
    let (id, _) = rig.order(within(of(&record, What::All), 3600)).await;
    rig.later(3300);
    let stuck = rig.until(id, |status| status.trouble.is_some()).await;
    let why = "4 blocks of lab@1 are damaged at the source; `icbd image verify lab@1` there says what is wrong";
    assert!(stuck.trouble.as_ref().is_some_and(|trouble| trouble.starts_with(why)), "{stuck:?}");
    assert!(matches!(stuck.verdict, Verdict::Late { end: None, .. }), "{stuck:?}");
    assert_eq!((stuck.left_bytes.div_ceil(BLOCK as u64), stuck.bytes_per_second), (4, 0));
    let missing: Vec<u64> = (0..300).filter(|block| !file.is_readable(*block..*block + 1)).collect();
    assert_eq!(missing, damaged);
    rig.asked();
    rig.later(1);
    rig.cache.prefetch_look(id, PATIENCE).await.unwrap();
    assert_eq!(rig.asked(), []);
    rig.master.set_damaged(root, file.index(), &[]);
    rig.cache.prefetch_resume(id).await.unwrap();
    assert_eq!(rig.waited(id).await.state, OrderState::Done);
    rig.cache.close().await;
}

/// Who goes first, goes first: also before an order that runs already.
#[tokio::test(flavor = "multi_thread")]
async fn a_more_urgent_order_goes_before_one_that_runs() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let record = rig.publish(&[("a", blocks(3000)), ("b", content(&[9000]))]).await;
    rig.line.set(Some(Fault::Delay(Duration::from_millis(50))));
    let slow = rig.cache.prefetch_add(of(&record, What::File("a".to_owned()))).await.unwrap();
    rig.until(slow, |status| status.done_bytes > 0).await;
    let urgent = Order { priority: Priority::High, ..of(&record, What::File("b".to_owned())) };
    let (urgent, _) = rig.order(urgent).await;
    assert_eq!(rig.waited(urgent).await.state, OrderState::Done);
    assert!(!rig.cache.prefetch_look(slow, PATIENCE).await.unwrap().is_complete());
    let absent = rig.cache.prefetch_explain(of(&record, What::File("c".to_owned()))).await.unwrap_err();
    assert!(matches!(absent, CacheError::NoSuchFile { .. }), "{absent}");
    rig.cache.close().await;
}
