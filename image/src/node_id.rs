//! The 64-bit ids by which a mount shows every file, the same on every cache and after every restart.

use std::fmt;

use crate::manifest::FileIndex;

/// A number the master gives to each image and each version once, and never again.
///
/// It is `max(last + 1, time)` with the time in 1/128 s since 2026-01-01: a master that was restored
/// from last week's backup does not know which numbers it gave since, but the clock is past them.
/// 40 bits of 1/128 s last 272 years.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Serial(u64);

/// 2026-01-01T00:00:00Z in seconds since 1970.
const EPOCH_SECONDS: i64 = 1_767_225_600;
const TICKS_PER_SECOND: i64 = 128;

impl Serial {
    /// Bits of a serial in a node id; the rest is the file index.
    pub const BITS: u32 = 40;
    pub const MAX: u64 = (1 << Serial::BITS) - 1;

    /// A serial from its number: 1 to [`Serial::MAX`].
    pub fn new(number: u64) -> Option<Serial> {
        (1..=Serial::MAX).contains(&number).then_some(Serial(number))
    }

    pub fn get(self) -> u64 {
        self.0
    }

    /// The serial to give after `last` at `now`; `None` when the space is used up.
    pub fn after(last: Option<Serial>, now: crate::Timestamp) -> Option<Serial> {
        let ticks = now.seconds.saturating_sub(EPOCH_SECONDS).saturating_mul(TICKS_PER_SECOND);
        let ticks = ticks.saturating_add(i64::from(now.nanoseconds) * TICKS_PER_SECOND / 1_000_000_000);
        let after_last = last.map_or(1, |last| last.0 + 1);
        Serial::new(after_last.max(u64::try_from(ticks).unwrap_or(0)))
    }
}

impl TryFrom<u64> for Serial {
    type Error = String;

    fn try_from(number: u64) -> Result<Serial, String> {
        Serial::new(number).ok_or_else(|| format!("a serial is 1 to {}, not {number}", Serial::MAX))
    }
}

impl From<Serial> for u64 {
    fn from(serial: Serial) -> u64 {
        serial.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a FUSE node id (and `st_ino`) stands for.
///
/// A serial belongs either to an image or to a version, so an image's directory and a version's
/// files cannot collide; which of the two it is, the listing knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeId {
    /// The mount's root: FUSE's node 1.
    Mount,
    /// File `index` of the version (or, of an image, 0 its directory and 1 its `current` link).
    Object { serial: Serial, index: FileIndex },
}

impl NodeId {
    const MOUNT: u64 = 1;
    const INDEX_BITS: u32 = 64 - Serial::BITS;

    pub fn from_u64(id: u64) -> Option<NodeId> {
        if id == NodeId::MOUNT {
            return Some(NodeId::Mount);
        }
        let serial = Serial::new(id >> NodeId::INDEX_BITS)?;
        let index = FileIndex::new((id & u64::from(FileIndex::MAX)) as u32)?;
        Some(NodeId::Object { serial, index })
    }

    pub fn to_u64(self) -> u64 {
        match self {
            NodeId::Mount => NodeId::MOUNT,
            NodeId::Object { serial, index } => serial.get() << NodeId::INDEX_BITS | u64::from(index.get()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timestamp;
    use proptest::prelude::*;

    #[test]
    fn a_restored_master_gives_no_serial_twice() {
        let at = |seconds| Timestamp { seconds: EPOCH_SECONDS + seconds, nanoseconds: 0 };
        let saturday = Serial::after(None, at(1000)).unwrap();
        let monday = Serial::after(Some(saturday), at(2000)).unwrap();
        // The backup of Saturday is restored on Tuesday.
        let tuesday = Serial::after(Some(saturday), at(3000)).unwrap();
        assert!(saturday < monday && monday < tuesday);
        // Two in one tick, and a clock that goes back, still rise.
        assert_eq!(Serial::after(Some(monday), at(2000)).unwrap().get(), monday.get() + 1);
        assert_eq!(Serial::after(Some(monday), at(-5)).unwrap().get(), monday.get() + 1);
        assert_eq!(Serial::after(Serial::new(Serial::MAX), at(0)), None);
        let broken = Timestamp { seconds: i64::MIN, nanoseconds: 0 };
        assert_eq!(Serial::after(Some(monday), broken).unwrap().get(), monday.get() + 1);
    }

    proptest! {
        #[test]
        fn ids_round_trip(id: u64) {
            if let Some(node) = NodeId::from_u64(id) {
                prop_assert_eq!(node.to_u64(), id);
            } else {
                prop_assert!(id >> NodeId::INDEX_BITS == 0 && id != 1);
            }
        }
    }
}
