//! A source that fails on demand.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use icbd_image::{FileIndex, Hash, Listing, Root};
use tokio::sync::watch;

use crate::error::SourceError;
use crate::settings::TimeOuts;
use crate::source::{BlockRequest, BlockStream, ListingTag, ProfileAnswer, Source};

/// What goes wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// No connection; streams that are being read break off, too.
    Unreachable,
    /// Nothing is answered until the first-byte time-out.
    NeverAnswers,
    /// The first half comes, then nothing until the stall time-out.
    Stall,
    /// The first half comes, then the connection closes.
    HalfBody,
    /// The last byte of each block, page or head is missing.
    WrongLength,
    /// A bit of each block, page or head is another.
    WrongHash,
    /// A web page, as from a captive portal.
    Html,
    /// HTTP's 404.
    Absent,
    /// HTTP's 500.
    Broken,
    /// All is well, this much later.
    Delay(Duration),
    /// Nothing is answered until the fault is changed; then the request goes on under the new one.
    Held,
}

/// Wraps a source; a test turns faults on and off while requests are made.
#[derive(Debug)]
pub struct FaultySource {
    inner: Arc<dyn Source>,
    time_outs: TimeOuts,
    /// The fault of every request that the script says nothing of.
    fault: watch::Sender<Option<Fault>>,
    plan: Mutex<Plan>,
}

#[derive(Debug, Default)]
struct Plan {
    script: VecDeque<Option<Fault>>,
    requests: u64,
    /// Out of 256 requests so many fail, with one of `faults`.
    odds: u8,
    faults: Vec<Fault>,
    /// State of the generator that throws the dice (xorshift64): never 0.
    dice: u64,
}

impl FaultySource {
    /// Without a fault so far.
    pub fn new(inner: Arc<dyn Source>) -> FaultySource {
        FaultySource::with_time_outs(inner, TimeOuts::default())
    }

    pub fn with_time_outs(inner: Arc<dyn Source>, time_outs: TimeOuts) -> FaultySource {
        FaultySource { inner, time_outs, fault: watch::Sender::new(None), plan: Mutex::default() }
    }

    /// Every request from now on fails so, or none does.
    pub fn set(&self, fault: Option<Fault>) {
        self.fault.send_replace(fault);
    }

    /// The next requests go so, one each, those with `None` well; after them [`FaultySource::set`] counts again.
    pub fn script(&self, faults: impl IntoIterator<Item = Option<Fault>>) {
        self.plan().script.extend(faults);
    }

    /// Of requests that nothing else is said about, `odds` out of 256 fail with one of `faults`, the
    /// same ones for the same seed.
    pub fn throw_dice(&self, odds: u8, faults: &[Fault], seed: u64) {
        let mut plan = self.plan();
        (plan.odds, plan.faults, plan.dice) = (odds, faults.to_vec(), seed.max(1));
    }

    /// Requests made so far, failed ones too.
    pub fn requests(&self) -> u64 {
        self.plan().requests
    }

    fn plan(&self) -> std::sync::MutexGuard<'_, Plan> {
        self.plan.lock().expect("no panic under this lock")
    }

    /// Suffers what comes before an answer; returns the fault that the answer itself has.
    async fn begin(&self) -> Result<Option<Fault>, SourceError> {
        let mut planned = self.plan().next();
        let mut changes = self.fault.subscribe();
        loop {
            let usual = *changes.borrow_and_update();
            let fault = planned.unwrap_or(usual);
            match fault {
                Some(Fault::Unreachable) => return Err(refused()),
                Some(Fault::NeverAnswers) => return Err(silent("it answers nothing", self.time_outs.first_byte).await),
                Some(Fault::Html) => return Err(SourceError::Foreign("answers HTML".to_owned())),
                Some(Fault::Absent) => return Err(SourceError::Absent),
                Some(Fault::Broken) => return Err(SourceError::Broken { status: 500, says: "a fault".to_owned() }),
                Some(Fault::Delay(delay)) => {
                    tokio::time::sleep(delay).await;
                    return Ok(None);
                }
                Some(Fault::Held) => {
                    // The sender lives in self: no error can come of it.
                    let _ = changes.changed().await;
                    planned = None;
                }
                Some(Fault::Stall | Fault::HalfBody | Fault::WrongLength | Fault::WrongHash) | None => {
                    return Ok(fault);
                }
            }
        }
    }

    /// A whole answer as the fault leaves it.
    async fn spoil(&self, fault: Option<Fault>, bytes: Bytes) -> Result<Bytes, SourceError> {
        match fault {
            Some(Fault::Stall) => Err(silent("no byte came", self.time_outs.stall).await),
            Some(Fault::HalfBody) => Err(cut_short()),
            _ => Ok(alter(fault, bytes)),
        }
    }
}

impl Plan {
    /// How the next request goes; `None` when nothing is said about it.
    fn next(&mut self) -> Option<Option<Fault>> {
        self.requests += 1;
        if let Some(scripted) = self.script.pop_front() {
            return Some(scripted);
        }
        if self.faults.is_empty() {
            return None;
        }
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        let fails = (self.dice >> 32) as u8;
        (fails < self.odds).then(|| Some(self.faults[(self.dice >> 40) as usize % self.faults.len()]))
    }
}

async fn silent(what: &'static str, after: Duration) -> SourceError {
    tokio::time::sleep(after).await;
    SourceError::Timeout { what, after }
}

fn refused() -> SourceError {
    SourceError::Unreachable("connection refused".to_owned())
}

fn cut_short() -> SourceError {
    SourceError::Interrupted("the connection was closed".to_owned())
}

fn alter(fault: Option<Fault>, bytes: Bytes) -> Bytes {
    match fault {
        Some(Fault::WrongLength) => bytes.slice(..bytes.len().saturating_sub(1)),
        Some(Fault::WrongHash) => {
            let mut bytes = Vec::from(bytes);
            if let Some(byte) = bytes.last_mut() {
                *byte ^= 1;
            }
            bytes.into()
        }
        _ => bytes,
    }
}

#[async_trait]
impl Source for FaultySource {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn received_bytes(&self) -> u64 {
        self.inner.received_bytes()
    }

    async fn listing(&self, known: Option<&ListingTag>) -> Result<Option<(Listing, ListingTag)>, SourceError> {
        match self.begin().await? {
            None => self.inner.listing(known).await,
            Some(Fault::WrongLength | Fault::WrongHash) => Err(SourceError::Malformed("it is no listing".to_owned())),
            fault => self.spoil(fault, Bytes::new()).await.map(|_| None),
        }
    }

    async fn head(&self, root: Root) -> Result<Bytes, SourceError> {
        let fault = self.begin().await?;
        self.spoil(fault, self.inner.head(root).await?).await
    }

    async fn page(&self, root: Root, file: FileIndex, page: u64) -> Result<Bytes, SourceError> {
        let fault = self.begin().await?;
        self.spoil(fault, self.inner.page(root, file, page).await?).await
    }

    async fn profile(&self, root: Root, known: Option<Hash>) -> Result<ProfileAnswer, SourceError> {
        let fault = self.begin().await?;
        match self.inner.profile(root, known).await? {
            ProfileAnswer::Bytes(bytes) => self.spoil(fault, bytes).await.map(ProfileAnswer::Bytes),
            other => Ok(other),
        }
    }

    async fn blocks(&self, request: &BlockRequest) -> Result<BlockStream, SourceError> {
        let fault = self.begin().await?;
        let (blocks, stall) = (self.inner.blocks(request).await?, self.time_outs.stall);
        let now = self.fault.subscribe();
        let half = request.run.first + u64::from(request.run.count / 2);
        let spoiled = blocks.then(move |item| {
            let gone = *now.borrow() == Some(Fault::Unreachable);
            async move {
                let (block, bytes) = item?;
                match fault {
                    _ if gone => Err(cut_short()),
                    Some(Fault::Stall) if block >= half => Err(silent("no byte came", stall).await),
                    Some(Fault::HalfBody) if block >= half => Err(cut_short()),
                    _ => Ok((block, alter(fault, bytes))),
                }
            }
        });
        // Nothing comes after an error.
        let ended = spoiled.scan(false, |failed, item| {
            let item = (!*failed).then_some(item);
            *failed |= matches!(item, Some(Err(_)));
            async move { item }
        });
        Ok(stream::StreamExt::boxed(ended))
    }
}
