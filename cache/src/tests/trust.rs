//! Versions whose signatures are believed no longer: withheld, never lost.

use icbd_image::{ImageName, SecretKey, SignedStatement, Trust, VersionNumber, VersionRecord};

use super::rig::{BLOCK, PATIENCE, Rig, content};
use crate::disk::memory::MemoryDisk;
use crate::view::Object;
use crate::{CacheError, Order, What};

fn key(seed: u8) -> SecretKey {
    SecretKey::from_random([seed; 32], "")
}

fn required(keys: &[&SecretKey]) -> Trust {
    Trust { keys: keys.iter().map(|key| key.public()).collect(), require: true }
}

fn lab() -> ImageName {
    "lab".parse().unwrap()
}

/// Has the master list the last version of the image as signed, and as deployed.
async fn sign_and_deploy(rig: &Rig, keys: &[&SecretKey]) {
    let mut listing = rig.master.current_listing();
    let image = &mut listing.images[0];
    let version = image.versions.last_mut().unwrap();
    version.statement = SignedStatement::new(version.statement.statement().clone());
    for key in keys {
        version.statement = version.statement.clone().sign(key);
    }
    image.deployed = Some(version.number());
    rig.master.set_listing(listing);
    rig.cache.refresh().await.unwrap();
}

/// The numbers that are shown, and the one that the bare name means.
fn shown(rig: &Rig) -> (Vec<u32>, Option<u32>) {
    let view = rig.cache.view();
    let image = view.image(&lab()).unwrap();
    (image.versions.iter().map(|version| version.number().get()).collect(), image.deployed.map(VersionNumber::get))
}

fn id(record: &VersionRecord) -> icbd_image::VersionId {
    record.statement.statement().version()
}

fn is_untrusted<T: std::fmt::Debug>(result: Result<T, CacheError>) {
    assert!(matches!(result, Err(CacheError::Untrusted { .. })), "{result:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_trusted_no_longer_is_withheld_and_comes_back_as_it_was() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let (ours, text) = (key(1), content(&[1, 2, 3]));
    let v1 = rig.publish(&[("a", text.clone())]).await;
    sign_and_deploy(&rig, &[&ours]).await;
    let v2 = rig.publish(&[("a", content(&[4]))]).await;
    sign_and_deploy(&rig, &[]).await;
    let open = rig.file(&v2, "a").await;
    open.read(0, 10).await.unwrap();
    assert_eq!(shown(&rig), (vec![1, 2], Some(2)));

    rig.cache.set_trust(required(&[&ours]));
    // Nothing is booted in the place of what was deployed.
    assert_eq!(shown(&rig), (vec![1], None));
    assert_eq!(rig.cache.view().deployed_by_master(&lab()), Some(v2.number()));
    is_untrusted(rig.cache.view().usable(&id(&v2)));
    is_untrusted(rig.cache.prefetch_add(Order::of_version(&id(&v2), What::All)).await);
    is_untrusted(rig.cache.verify(&id(&v2), |_| {}).await);
    is_untrusted(rig.cache.roll_back(&lab(), Some(v2.number()), "root").await);
    let warnings = rig.cache.status().warnings;
    let words = ["lab@2 is not signed by a trusted key", "icbd key trust", "config reload", "rollback lab --local"];
    assert!(warnings.len() == 1 && words.iter().all(|words| warnings[0].contains(words)), "{warnings:?}");
    // Nor does a standing order fetch an older one in its place.
    let standing = rig.cache.prefetch_add(Order::new("lab".parse().unwrap(), What::All)).await.unwrap();
    assert_eq!(rig.cache.prefetch_look(standing, PATIENCE).await.unwrap().versions, []);
    rig.cache.prefetch_cancel(standing).await.unwrap();
    // Who has it open goes on, also with what is not here yet: its serial still means the same.
    assert!(matches!(rig.cache.view().object(v2.serial()), Some(Object::Version(_, known)) if *known == v2));
    assert_eq!(open.read(100, 10).await.unwrap(), content(&[4])[100..110]);

    // A key of nobody who is trusted takes the rest.
    rig.cache.set_trust(required(&[&key(2)]));
    assert_eq!(shown(&rig), (vec![], None));
    // No listing of the same versions gives anything back.
    rig.cache.refresh().await.unwrap();
    assert_eq!(shown(&rig), (vec![], None));

    rig.asked();
    rig.cache.set_trust(Trust::default());
    assert_eq!(shown(&rig), (vec![1, 2], Some(2)));
    assert!(rig.cache.status().warnings.is_empty());
    rig.file(&v2, "a").await.read(0, BLOCK / 2).await.unwrap();
    assert_eq!(rig.asked(), [], "what was here was fetched again");
    rig.file(&v1, "a").await.read(0, text.len()).await.unwrap();
    rig.cache.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_listed_before_a_restart_is_judged_by_the_trust_of_now() {
    let mut rig = Rig::new(MemoryDisk::new(1)).await;
    rig.publish(&[("a", content(&[1]))]).await;
    sign_and_deploy(&rig, &[&key(1)]).await;
    rig.offline();
    rig.cache.close().await;
    rig.trust = required(&[&key(2)]);
    rig.restart_on(rig.disk.clone()).await;
    assert_eq!(shown(&rig), (vec![], None));
    assert!(rig.cache.status().warnings[0].contains("lab@1"));
    rig.cache.close().await;
    rig.trust = required(&[&key(1)]);
    rig.restart_on(rig.disk.clone()).await;
    assert_eq!(shown(&rig), (vec![1], Some(1)));
    rig.cache.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_signed_anew_is_shown_again() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    rig.publish(&[("a", content(&[1]))]).await;
    rig.cache.set_trust(required(&[&key(1)]));
    assert_eq!(shown(&rig), (vec![], None));
    sign_and_deploy(&rig, &[&key(2)]).await;
    assert_eq!(shown(&rig), (vec![], None));
    sign_and_deploy(&rig, &[&key(2), &key(1)]).await;
    assert_eq!(shown(&rig), (vec![1], Some(1)));
    rig.cache.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_rollback_to_a_withheld_version_leads_nowhere_until_it_is_trusted_again() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let v1 = rig.publish(&[("a", content(&[1]))]).await;
    rig.publish(&[("a", content(&[2]))]).await;
    sign_and_deploy(&rig, &[&key(1)]).await;
    rig.cache.roll_back(&lab(), Some(v1.number()), "root").await.unwrap();
    assert_eq!(shown(&rig), (vec![1, 2], Some(1)));
    rig.cache.set_trust(required(&[&key(1)]));
    // Not to the one that somebody rolled back from.
    assert_eq!(shown(&rig), (vec![2], None));
    assert!(rig.cache.status().warnings[0].contains("The name lab alone"));
    // The master must not remove what is needed here.
    assert_eq!(rig.cache.needed(), [v1.serial()]);
    rig.cache.set_trust(Trust::default());
    assert_eq!(shown(&rig), (vec![1, 2], Some(1)));
    rig.cache.close().await;
}

/// A new version takes unchanged blocks also from one that is withheld: they are compared with its own hashes.
#[tokio::test(flavor = "multi_thread")]
async fn a_withheld_version_still_saves_fetching() {
    let rig = Rig::new(MemoryDisk::new(1)).await;
    let v1 = rig.publish(&[("a", content(&[1, 2, 3]))]).await;
    rig.file(&v1, "a").await.read(0, 3 * BLOCK).await.unwrap();
    rig.cache.flush().await;
    rig.cache.set_trust(required(&[&key(1)]));
    rig.master.publish("lab", &[("a", content(&[1, 9, 3]))]);
    sign_and_deploy(&rig, &[&key(1)]).await;
    assert_eq!(shown(&rig), (vec![2], Some(2)));
    let view = rig.cache.view();
    let v2 = view.images()[0].versions[0].clone();
    rig.asked();
    rig.file(&v2, "a").await.read(0, 3 * BLOCK).await.unwrap();
    assert_eq!(rig.asked(), [(1, 1)]);
    rig.cache.close().await;
}
