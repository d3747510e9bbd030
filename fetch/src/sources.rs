//! The ordered list of sources: fail-over, fail-back, retries, limits, and the check of every byte.

mod gate;
mod habits;
mod line;
mod member;
mod round;
mod run;
mod window;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::stream::BoxStream;
use icbd_image::{FileIndex, Hash, Head, HeadError, Listing, Page, Root, VerifiedBlock};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

pub use gate::Leave;
pub use habits::Habits;
pub use member::{SourceHealth, SourceState};

use crate::error::{FetchError, SourceError, Wanted};
use crate::settings::Settings;
use crate::source::{ListingTag, ProfileAnswer, RunRequest, Source, Urgency};
use gate::Gate;
use member::Member;
use round::Round;

/// What a source that answers has wrong is asked for again after this at the latest: it takes a person to mend it.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// The sources in the order in which they are preferred.
///
/// Each request makes one round: the first source that is not known to be down is asked, with a few
/// tries; then the next. All futures and streams are cancel-safe: dropping one cancels its request
/// and gives its place among the requests in flight back.
#[derive(Debug)]
pub struct Sources {
    members: Vec<Arc<Member>>,
    gate: Arc<Gate>,
    settings: Settings,
    changes: watch::Sender<u64>,
    /// Whose listing was returned last, and its tag.
    listed: Mutex<Option<(usize, ListingTag)>>,
}

/// A listing and the source it is of. The first source is the authority; what another one lists may
/// be older, or of another repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourcedListing {
    pub source: String,
    pub listing: Listing,
}

impl Sources {
    pub fn new(sources: Vec<Arc<dyn Source>>, settings: Settings) -> Sources {
        Sources::with_habits(sources, settings, &Habits::default())
    }

    /// The same, where something may be known of these sources.
    pub fn with_habits(sources: Vec<Arc<dyn Source>>, settings: Settings, habits: &Habits) -> Sources {
        let changes = watch::Sender::new(0);
        let member = |source: Arc<dyn Source>| {
            let habit = habits.of(source.name());
            Arc::new(Member::new(source, settings, changes.clone(), habit))
        };
        let members = sources.into_iter().map(member).collect();
        Sources { members, gate: Arc::new(Gate::new()), settings, changes, listed: Mutex::new(None) }
    }

    /// What was found out of each source, or known of it before.
    pub fn habits(&self) -> Habits {
        let known = |member: &Arc<Member>| Some((member.name().to_owned(), member.habit()?));
        self.members.iter().filter_map(known).collect()
    }

    /// What the first source that answers offers; `None` when it is what the last call returned.
    /// This is also what notices that a silent source is back: call it regularly.
    pub async fn listing(&self) -> Result<Option<SourcedListing>, FetchError> {
        let ask = |place, source: Arc<dyn Source>| async move {
            let listed = self.listed().clone();
            let known = listed.filter(|(of, _)| *of == place).map(|(_, tag)| tag);
            let answer = source.listing(known.as_ref()).await?;
            let listed = answer.map(|(listing, tag)| {
                *self.listed() = Some((place, tag));
                SourcedListing { source: source.name().to_owned(), listing }
            });
            Ok((listed, None))
        };
        self.ask(Wanted::Listing, ask).await
    }

    /// Has the next [`Sources::listing`] return what there is, also if it has not changed: for whoever
    /// could not keep the last one.
    pub fn forget_listing(&self) {
        *self.listed() = None;
    }

    /// The verified head of a version.
    ///
    /// # Errors
    /// [`FetchError::Unusable`] when it came, is what the root says, and this icbd cannot read it.
    pub async fn head(&self, root: Root) -> Result<Head, FetchError> {
        let ask = |_, source: Arc<dyn Source>| async move {
            let bytes = source.head(root).await?;
            let length = bytes.len();
            match Head::parse_expecting(bytes, &root) {
                Err(error @ HeadError::OtherRoot { .. }) => Err(error.into()),
                // The source did its part, whatever is in it.
                head => Ok((head, Some(length))),
            }
        };
        self.ask(Wanted::Head(root), ask).await?.map_err(|why| FetchError::Unusable { root, why })
    }

    /// A verified hash page of a file. A page of zeros is known without asking.
    ///
    /// # Panics
    /// When the head has no such page.
    pub async fn page(&self, head: &Head, file: FileIndex, page: u64) -> Result<Page, FetchError> {
        let node = head.node(file).filter(|node| page < node.pages()).expect("a page that the head has");
        if let Some(zero) = Page::zero(&node, page) {
            return Ok(zero);
        }
        let root = head.root();
        let ask = |_, source: Arc<dyn Source>| async move {
            let bytes = source.page(root, file, page).await?;
            let length = bytes.len();
            Ok((Page::verify(&node, page, bytes)?, Some(length)))
        };
        self.ask(Wanted::Page { root, file, page }, ask).await
    }

    /// What the first source that answers knows of boots of a version; `known` is the hash of what one answered before.
    pub async fn profile(&self, root: Root, known: Option<Hash>) -> Result<ProfileAnswer, FetchError> {
        let ask = |_, source: Arc<dyn Source>| async move {
            let answer = source.profile(root, known).await?;
            let length = if let ProfileAnswer::Bytes(bytes) = &answer { Some(bytes.len()) } else { None };
            Ok((answer, length))
        };
        self.ask(Wanted::Profile(root), ask).await
    }

    /// Waits until some blocks, at most `most`, may be asked for. To be taken before it is decided which, and
    /// handed on to [`Sources::blocks`]: what should wait here for long would keep others waiting for it.
    pub async fn leave(&self, urgency: Urgency, most: u32) -> Leave {
        self.gate.enter(urgency, most).await
    }

    /// The shortest time from a request to the beginning of its answer lately, which is that of an idle line;
    /// `None` before the first.
    pub fn round_trip(&self) -> Option<Duration> {
        self.gate.round_trip()
    }

    /// How many requests of [`Urgency::Demand`] there were so far.
    pub fn demands(&self) -> u64 {
        self.gate.demands()
    }

    /// How many requests of [`Urgency::Stream`] and [`Urgency::Readahead`] there were so far.
    pub fn streams(&self) -> u64 {
        self.gate.streams()
    }

    /// Blocks that were asked for and have not come yet.
    pub fn asked_blocks(&self) -> u32 {
        self.gate.asked_blocks()
    }

    /// The verified blocks of a run, in order, `hashes[0]` being the hash of its first. With a `leave` it is
    /// asked for at once, else when it may be, for each source that is asked.
    ///
    /// When a source fails on the way, the next one goes on where it stopped. An error ends the
    /// stream. Poll it to its end, after the last block too, or its connection is not used again.
    ///
    /// # Panics
    /// When there is not one hash for each block.
    pub fn blocks(
        self: &Arc<Self>,
        request: RunRequest,
        hashes: Vec<Hash>,
        leave: Option<Leave>,
    ) -> BoxStream<'static, Result<VerifiedBlock, FetchError>> {
        run::stream(self.clone(), request, hashes, leave)
    }

    /// How each source is, in order. Never waits.
    pub fn health(&self) -> Vec<SourceHealth> {
        self.members.iter().map(|member| member.health()).collect()
    }

    /// Changes whenever a source goes offline, comes back, or was probed in vain.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Waits until another round is worth making, after `rounds` rounds (1, 2, …) failed: until a
    /// source is back or may be probed; if one is online, its answer was the trouble, and a back-off
    /// of at most 30 s passes, or until a source changes. For ever without any source.
    pub async fn pause(&self, rounds: u32) {
        let mut changes = self.changed();
        if self.members.iter().any(|member| member.is_online()) {
            let most = Settings { back_off_max: PAUSE_MAX, ..self.settings };
            tokio::select! {
                () = sleep(round::back_off(&most, rounds)) => return,
                _ = changes.changed() => {}
            }
        }
        loop {
            changes.borrow_and_update();
            if self.members.iter().any(|member| member.is_online()) {
                return;
            }
            // A member that is being probed has no time; the probe's verdict is a change.
            let probe_at: Option<Instant> = self.members.iter().filter_map(|member| member.probe_at()).min();
            let changed = changes.changed();
            match probe_at {
                None => _ = changed.await,
                Some(at) => tokio::select! {
                    () = sleep_until(at) => return,
                    _ = changed => {}
                },
            }
        }
    }

    /// One round for something that comes in one piece; `ask` also says of how many bytes, for the log.
    async fn ask<T, F: Future<Output = Result<(T, Option<usize>), SourceError>>>(
        &self,
        wanted: Wanted,
        ask: impl Fn(usize, Arc<dyn Source>) -> F,
    ) -> Result<T, FetchError> {
        let mut round = Round::default();
        loop {
            let member = round.choose(self, wanted, |_| false)?;
            let permit = member.small_permit().await;
            let started = Instant::now();
            let place = round.place().expect("just chosen");
            let answer = match round.revoked() {
                None => ask(place, member.source.clone()).await,
                Some(offline) => Err(offline),
            };
            drop(permit);
            match answer {
                Ok((thing, bytes)) => {
                    let ms = started.elapsed().as_millis() as u64;
                    tracing::debug!(source = member.name(), what = %wanted, bytes, ms, "fetched");
                    round.progressed();
                    return Ok(thing);
                }
                Err(error) => {
                    if let SourceError::WrongContent(_) = error {
                        tracing::warn!(source = member.name(), what = %wanted, %error, "source gave wrong content");
                    }
                    round.failed(&self.settings, error).await;
                }
            }
        }
    }

    fn listed(&self) -> std::sync::MutexGuard<'_, Option<(usize, ListingTag)>> {
        self.listed.lock().expect("no panic under this lock")
    }
}
