//! What caches offer is fetched from them: boot profiles, merged into the repository's.
//!
//! An offer comes with a poll of the listing, from an address that `allow` admits. Only this address is asked, at
//! the port it named, without redirects, for at most so many bytes and seconds; who cannot be asked is left alone
//! for a while, and others need not wait for it. A profile is advice, so the worst that a cache can do is to have
//! others fetch what no boot reads.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::{StreamExt, stream};
use icbd_fetch::{HttpSource, ProfileAnswer, Source, TimeOuts};
use icbd_image::{Profile, Root};
use icbd_master::{MasterError, Repository};
use icbd_wire::Offer;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Caches that are asked at once: some behind a firewall must not hold up all others. Each answer is in memory.
const PEERS_AT_ONCE: usize = 8;
/// A cache that has not heard yet that its news was fetched offers it with every poll.
const AGAIN: Duration = Duration::from_secs(20);
/// One that could not be asked offers all the same.
const AGAIN_AFTER_FAILURE: Duration = Duration::from_secs(10 * 60);
/// Entries of each memory; past it all are forgotten.
const REMEMBERED_MAX: usize = 4096;
/// How long one profile may take: 4 MiB over a line of 3 Mbit/s.
const FETCH_MAX: Duration = Duration::from_secs(15);

/// Who fetches, and what was done lately.
#[derive(Debug)]
struct Learner {
    repository: Arc<Repository>,
    fetched: Lately<(SocketAddr, Root)>,
    failed: Lately<SocketAddr>,
}

/// What was done when, so that it is not done again too soon.
#[derive(Debug)]
struct Lately<K>(Mutex<HashMap<K, Instant>>);

/// Fetches what is offered, until `stop`.
pub(super) async fn run(repository: Arc<Repository>, offers: mpsc::Receiver<(IpAddr, Offer)>, stop: CancellationToken) {
    let learner = Arc::new(Learner { repository, fetched: Lately::default(), failed: Lately::default() });
    let offers = stream::unfold(offers, |mut offers| async { offers.recv().await.map(|offer| (offer, offers)) });
    let learn = offers.for_each_concurrent(PEERS_AT_ONCE, move |(from, offer)| learner.clone().accept(from, offer));
    stop.run_until_cancelled(learn).await;
}

impl Learner {
    async fn accept(self: Arc<Self>, from: IpAddr, Offer { port, roots }: Offer) {
        let peer = SocketAddr::new(from, port);
        for root in roots {
            if self.failed.has(&peer, AGAIN_AFTER_FAILURE) || !self.fetched.note((peer, root), AGAIN) {
                continue;
            }
            match self.fetch(peer, root).await {
                Ok(true) => tracing::info!(%peer, root = %root.short(), "learned what boots read"),
                Ok(false) => {}
                Err(error) => {
                    self.failed.note(peer, Duration::ZERO);
                    let error = format!("{error:#}");
                    tracing::warn!(%peer, root = %root.short(), error, "a boot profile that was offered is ignored");
                }
            }
        }
    }

    /// Takes over what `peer` knows of boots of a version; whether that was anything new.
    async fn fetch(&self, peer: SocketAddr, root: Root) -> anyhow::Result<bool> {
        let known = self.repository.clone();
        // Of what is no version here nothing is fetched.
        match tokio::task::spawn_blocking(move || known.profile(root)).await? {
            Err(MasterError::UnknownRoot(_)) => return Ok(false),
            known => drop(known?),
        }
        let source = HttpSource::new(&format!("http://{peer}"), TimeOuts::default())?;
        let answer = tokio::time::timeout(FETCH_MAX, source.profile(root, None)).await.context("it takes too long")?;
        let ProfileAnswer::Bytes(bytes) = answer? else { return Ok(false) };
        let repository = self.repository.clone();
        let merge = move || Ok(repository.merge_profile(&Profile::decode_expecting(&bytes, root)?)?);
        tokio::task::spawn_blocking(merge).await?
    }
}

impl<K> Default for Lately<K> {
    fn default() -> Lately<K> {
        Lately(Mutex::default())
    }
}

impl<K: Eq + Hash> Lately<K> {
    fn has(&self, what: &K, within: Duration) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(what).is_some_and(|when| when.elapsed() < within)
    }

    /// Notes that it is done now; whether it was not done `within` that time before.
    fn note(&self, what: K, within: Duration) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.get(&what).is_some_and(|when| when.elapsed() < within) {
            return false;
        }
        if known.len() >= REMEMBERED_MAX {
            known.clear();
        }
        known.insert(what, Instant::now());
        true
    }
}
