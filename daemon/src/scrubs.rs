//! Sealing and scrubbing, as they travel between command and daemon.

use std::fmt;
use std::num::NonZeroU64;

use icbd_image::{ImageRef, Timestamp, VersionId};
use serde::{Deserialize, Serialize};

use crate::output::{bytes, counted, plain, time};
use crate::verify::FAULTS_SHOWN_MAX;

/// What is to be sealed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SealSpec {
    pub version: ImageRef,
    #[serde(default)]
    pub why: String,
}

/// A version that is sealed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SealResult {
    pub version: VersionId,
    pub since: Timestamp,
    /// It was sealed before.
    pub was_sealed: bool,
    pub blocks: u64,
    /// Blocks that the disk had spoilt, and that were fetched anew.
    pub mended: u64,
    pub seconds: f64,
    /// Of these, the last step.
    pub freezing_seconds: f64,
}

/// How everything is to be read again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ScrubSpec {
    pub bytes_per_second: Option<NonZeroU64>,
    /// Of a master: who may hold what is damaged here.
    #[serde(default)]
    pub from: Vec<String>,
}

/// What was found.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct ScrubResult {
    pub versions: u64,
    pub blocks: u64,
    pub fault_count: u64,
    /// Of these, mended.
    pub mended: u64,
    /// The first of them.
    pub faults: Vec<String>,
    pub seconds: f64,
}

/// The command, as it is written in the audit log.
impl fmt::Display for SealSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "image seal {}", self.version)
    }
}

/// The command, as it is written in the audit log.
impl fmt::Display for ScrubSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("store scrub")?;
        self.from.iter().try_for_each(|url| write!(f, " --from {url}"))
    }
}

impl SealResult {
    pub(crate) fn words(&self) -> String {
        let SealResult { version, since, was_sealed, blocks, mended, seconds, .. } = self;
        if *was_sealed {
            return format!("{version} is sealed since {}", time(*since));
        }
        let mended = if *mended > 0 { format!(", {mended} of them spoilt and fetched anew") } else { String::new() };
        format!("{version}: {blocks} blocks verified in {seconds:.1} s{mended}; sealed")
    }
}

impl ScrubResult {
    /// Adds what one version had.
    pub(crate) fn add(&mut self, blocks: u64, count: u64, mended: u64, faults: impl Iterator<Item = String>) {
        self.versions += 1;
        self.blocks += blocks;
        self.fault_count += count;
        self.mended += mended;
        let room = FAULTS_SHOWN_MAX.saturating_sub(self.faults.len());
        self.faults.extend(faults.take(room));
    }

    pub(crate) fn words(&self) -> String {
        let ScrubResult { versions, blocks, fault_count, mended, faults, seconds } = self;
        let (versions, read) = (counted(*versions, "version"), bytes(blocks * icbd_image::BLOCK_BYTES));
        let mut lines = vec![format!("{versions}, {read} read in {seconds:.1} s: {fault_count} bad, {mended} mended")];
        lines.extend(faults.iter().map(|fault| format!("! {}", plain(fault))));
        lines.join("\n")
    }
}
