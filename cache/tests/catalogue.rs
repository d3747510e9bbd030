//! A catalogue that is damaged or gone is rebuilt from what the trees prove, with every source down.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use icbd_cache::{Cache, CacheError, Order, OrderState, Settings, What};
use icbd_fetch::Sources;
use icbd_fetch::testing::{Fault, FaultySource, MemorySource};
use icbd_image::{Trust, VersionState};

async fn open(store: &Path, line: &Arc<FaultySource>) -> Result<Arc<Cache>, CacheError> {
    let settings = Settings { offline_wait: Duration::ZERO, reserve_bytes: Some(0), ..Settings::new(store) };
    let sources = Sources::new(vec![line.clone()], icbd_fetch::Settings::default());
    Cache::open(settings, Arc::new(sources), Trust::default()).await
}

/// A closed store that holds `lab@1`, deployed, and the master's listing of it.
async fn filled(store: &Path, line: &Arc<FaultySource>, master: &MemorySource) -> icbd_image::Listing {
    let record = master.publish("lab", &[("disk.raw", content())]);
    let mut listing = master.current_listing();
    listing.images[0].deployed = Some(record.number());
    listing.images[0].versions[0].state = VersionState::Deployed;
    master.set_listing(listing.clone());
    let cache = open(store, line).await.unwrap();
    cache.refresh().await.unwrap();
    let version = cache.version(record.serial()).await.unwrap();
    let file = version.file(version.head().resolve(b"disk.raw").unwrap()).unwrap();
    file.read(0, usize::MAX).await.unwrap();
    cache.close().await;
    listing
}

fn content() -> Bytes {
    (0..3_000_000u32).map(|at| (at / 1000 + at) as u8).collect::<Vec<u8>>().into()
}

async fn check(damage: impl Fn(&Path), says: &str) {
    let store = tempfile::tempdir().unwrap();
    let master = Arc::new(MemorySource::new("master"));
    let line = Arc::new(FaultySource::new(master.clone()));
    let listing = filled(store.path(), &line, &master).await;
    damage(store.path());
    line.set(Some(Fault::Unreachable));
    let cache = open(store.path(), &line).await.unwrap();
    let warnings = cache.status().warnings;
    assert!(warnings.len() == 1 && warnings[0].contains(says) && warnings[0].contains("1 versions"), "{warnings:?}");
    let view = cache.view();
    assert_eq!((view.repository(), view.images()), (Some(listing.repository), listing.images.as_slice()));
    // What is here is known before anybody opens it.
    let held = &cache.status().versions[0];
    assert!(held.complete && held.residency.resident_bytes >= content().len() as u64, "{held:?}");
    let version = cache.version(view.images()[0].versions[0].serial()).await.unwrap();
    let file = version.file(version.head().resolve(b"disk.raw").unwrap()).unwrap();
    assert_eq!(file.read(0, usize::MAX).await.unwrap(), content());
    assert!(version.is_complete());
    cache.close().await;
    drop(cache);
    assert!(open(store.path(), &line).await.unwrap().status().warnings.is_empty(), "it is sound from then on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalogue_of_noise_is_kept_aside_and_rebuilt() {
    let noise = |store: &Path| std::fs::write(store.join("catalog.db"), vec![0xa5; 20_000]).unwrap();
    check(noise, "is kept as catalog.db.damaged-1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalogue_with_a_page_of_noise_is_rebuilt() {
    let page_of_noise = |store: &Path| {
        let path = store.join("catalog.db");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[4096..8192 * 3].fill(0xa5);
        std::fs::write(path, bytes).unwrap();
    };
    check(page_of_noise, "was damaged").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalogue_that_is_gone_is_rebuilt() {
    check(|store| std::fs::remove_file(store.join("catalog.db")).unwrap(), "was gone").await;
    check(|store| std::fs::write(store.join("catalog.db"), "").unwrap(), "was gone").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_catalogue_is_refused_and_left_alone() {
    let store = tempfile::tempdir().unwrap();
    let line = Arc::new(FaultySource::new(Arc::new(MemorySource::new("master"))));
    open(store.path(), &line).await.unwrap().close().await;
    let path = store.path().join("catalog.db");
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 3).unwrap();
    let error = open(store.path(), &line).await.unwrap_err();
    assert!(matches!(error, CacheError::NewerStore { found: 3, .. }), "{error}");
    assert!(path.exists() && error.is_permanent());
}

/// A catalogue of format 1 had jobs; those that had not ended go on as orders.
#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_format_1_become_orders() {
    let store = tempfile::tempdir().unwrap();
    let master = Arc::new(MemorySource::new("master"));
    let record = master.publish("lab", &[("a", vec![1; 200_000].into())]);
    let line = Arc::new(FaultySource::new(master));
    let cache = open(store.path(), &line).await.unwrap();
    cache.refresh().await.unwrap();
    cache.close().await;
    drop(cache);
    let db = rusqlite::Connection::open(store.path().join("catalog.db")).unwrap();
    let serial = record.serial();
    let old = format!(
        "DROP TABLE orders; DROP TABLE rates; PRAGMA user_version = 1;
        CREATE TABLE jobs (id INTEGER PRIMARY KEY AUTOINCREMENT, serial INTEGER NOT NULL, state TEXT NOT NULL);
        INSERT INTO jobs (id, serial, state) VALUES (4, {serial}, 'cancelled'), (7, {serial}, 'running');"
    );
    db.execute_batch(&old).unwrap();
    drop(db);
    let cache = open(store.path(), &line).await.unwrap();
    let order = Order::of_version(&record.statement.statement().version(), What::All);
    let status = cache.prefetch_wait(7).await.unwrap();
    assert_eq!((status.order.of, status.order.what, status.state), (order.of, order.what, OrderState::Done));
    assert_eq!(cache.prefetch_list()[0].state, OrderState::Cancelled);
    cache.close().await;
}

/// A store that is in use has no file of it mapped: writing to a mapping is a SIGBUS when a btrfs is full.
///
/// SQLite mapped the index of its log, and ended the daemon so about one time in five.
#[tokio::test(flavor = "multi_thread")]
async fn no_file_of_the_store_is_mapped() {
    let store = tempfile::tempdir().unwrap();
    let master = Arc::new(MemorySource::new("master"));
    let line = Arc::new(FaultySource::new(master.clone()));
    filled(store.path(), &line, &master).await;
    let cache = open(store.path(), &line).await.unwrap();
    cache.refresh().await.unwrap();
    let mapped = std::fs::read_to_string("/proc/self/maps").unwrap();
    let of_store: Vec<&str> = mapped.lines().filter(|line| line.contains(store.path().to_str().unwrap())).collect();
    assert!(of_store.is_empty(), "{of_store:#?}");
    cache.close().await;
}
