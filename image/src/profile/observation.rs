//! What one cold fill at one site read.

use std::collections::BTreeMap;
use std::fmt;

use uuid::Uuid;

use super::format;
use crate::FileIndex;
use crate::block::BLOCKS_MAX;

/// The identity of a cache's store, made once when it is created. Says nothing about where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SiteId(Uuid);

impl SiteId {
    /// An id from 16 random bytes.
    pub fn from_random(bytes: [u8; 16]) -> SiteId {
        SiteId(uuid::Builder::from_random_bytes(bytes).into_uuid())
    }

    pub fn from_bytes(bytes: [u8; 16]) -> SiteId {
        SiteId(Uuid::from_bytes(bytes))
    }

    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for SiteId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<SiteId, uuid::Error> {
        text.parse().map(SiteId)
    }
}

/// Blocks that were read for the first time, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Touch {
    /// Milliseconds since the fill's first read.
    pub after_ms: u32,
    pub file: FileIndex,
    pub first: u64,
    /// Blocks, at least 1.
    pub count: u32,
}

impl Touch {
    /// The block after the last.
    pub fn end(&self) -> u64 {
        self.first.saturating_add(u64::from(self.count))
    }
}

/// Of which version an observation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Of another version of the image, by path and position.
    Carried,
    /// Of the very version.
    Own,
}

/// What one cold fill at one site read, in order; no block twice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Observation {
    origin: Origin,
    site: SiteId,
    started: u64,
    touches: Vec<Touch>,
}

impl Observation {
    /// Runs that are kept: a boot has some hundred, one that has more than this is no boot.
    pub const RUNS_MAX: usize = 16_384;
    /// Bytes of the encoded runs: [`Profile::OBSERVATIONS_MAX`](super::Profile::OBSERVATIONS_MAX) of them stay
    /// below [`Profile::BYTES_MAX`](super::Profile::BYTES_MAX) whatever they hold, so union needs no second rule.
    pub const BYTES_MAX: usize = 80 << 10;

    /// An observation that began `started` seconds after 1970.
    ///
    /// `touches` come in the order in which they happened. What was touched before is left out, and what
    /// comes after a limit is reached.
    pub fn new(site: SiteId, started: u64, origin: Origin, touches: impl IntoIterator<Item = Touch>) -> Observation {
        let mut kept = Vec::new();
        let (mut seen, mut encoder) = (Seen::default(), format::TouchEncoder::default());
        let (mut bytes, mut now) = (0, 0);
        'all: for touch in touches {
            now = touch.after_ms.max(now);
            for touch in seen.add(touch) {
                let touch = Touch { after_ms: now, ..touch };
                bytes += encoder.encode(&touch, &mut Vec::new());
                if kept.len() == Observation::RUNS_MAX || bytes > Observation::BYTES_MAX {
                    break 'all;
                }
                kept.push(touch);
            }
        }
        Observation { origin, site, started, touches: kept }
    }

    pub fn site(&self) -> SiteId {
        self.site
    }

    /// Seconds since 1970, by the site's clock.
    pub fn started(&self) -> u64 {
        self.started
    }

    pub fn origin(&self) -> Origin {
        self.origin
    }

    pub fn touches(&self) -> &[Touch] {
        &self.touches
    }

    /// All blocks that were touched.
    pub fn blocks(&self) -> u64 {
        self.touches.iter().map(|touch| u64::from(touch.count)).sum()
    }
}

/// Blocks that were touched already.
#[derive(Default)]
struct Seen(BTreeMap<(FileIndex, u64), u64>);

impl Seen {
    /// The parts of `touch` that are new, in order.
    fn add(&mut self, touch: Touch) -> Vec<Touch> {
        let mut new = Vec::new();
        let (mut at, end) = (touch.first, touch.end().min(BLOCKS_MAX));
        while at < end {
            let before = self.0.range(..=(touch.file, at)).next_back();
            if let Some((_, seen)) = before.filter(|((file, _), seen)| *file == touch.file && **seen > at) {
                at = *seen;
                continue;
            }
            let after = self.0.range((touch.file, at)..).next();
            let until = after.map_or(end, |((file, first), _)| if *file == touch.file { end.min(*first) } else { end });
            self.0.insert((touch.file, at), until);
            new.push(Touch { first: at, count: (until - at) as u32, ..touch });
            at = until;
        }
        new
    }
}
