//! What was written to a clone, read from its beginning to its end as it is at one moment.
//!
//! Nobody is kept from using the clone meanwhile. Who writes to it has the reading end with an error: what was read is
//! nothing that the disk ever was.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use icbd_image::{Root, Serial};

use super::CloneName;
use super::disk::{CloneDisk, Opened};
use super::layer::PIECE_BYTES;
use crate::CacheError;
use crate::disk::Wait;

/// The written parts of one clone, in order.
#[derive(Debug)]
pub struct Written {
    disk: Arc<CloneDisk>,
    opened: Arc<Opened>,
    changes: u64,
    /// The first piece that was not looked at.
    at: u64,
    parts: VecDeque<WrittenPart>,
}

/// What was written to one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenPart {
    pub range: Range<u64>,
    /// Absent: all zeros.
    pub bytes: Option<Vec<u8>>,
}

impl CloneDisk {
    /// Begins to read what was written. Refused if some of it may be lost.
    pub async fn written(self: &Arc<Self>) -> Result<Written, CacheError> {
        self.check_is_impersonal()?;
        let opened = self.opened().await?;
        if opened.layer.is_suspect() {
            let message = format!("{}: the disk failed to keep what it wrote; reset it", self.name());
            return Err(CacheError::Refused(message));
        }
        let changes = opened.layer.changes();
        Ok(Written { disk: self.clone(), opened, changes, at: 0, parts: VecDeque::new() })
    }

    /// Refused if its sessions begin as something else than the version: that is one workstation's, and what was written over it
    /// is of no use without it.
    pub fn check_is_impersonal(&self) -> Result<(), CacheError> {
        if !self.has_personal() && !self.is_unfinished() {
            return Ok(());
        }
        let CloneName { version, client } = self.name();
        let message = format!(
            "{client}'s disk holds what clone.hook made for it alone; `icbd clone remove {client} {version}`, then `icbd image edit \
             {} --client {client}` gives it one without that",
            version.image
        );
        Err(CacheError::Refused(message))
    }

    /// The manifest of the version that it lies over.
    pub fn root(&self) -> Root {
        self.record().root
    }

    /// Its path in that version.
    pub fn file(&self) -> String {
        self.record().file
    }
}

impl Written {
    pub fn disk(&self) -> &Arc<CloneDisk> {
        &self.disk
    }

    pub fn serial(&self) -> Serial {
        self.disk.serial()
    }

    /// Bytes of the disk that were written.
    pub fn bytes(&self) -> u64 {
        self.opened.layer.written_bytes()
    }

    /// The next part, of at most `bytes_max` bytes; `None` after the last. Blocks.
    pub fn next(&mut self, bytes_max: usize) -> Result<Option<WrittenPart>, CacheError> {
        if self.parts.is_empty() {
            let range = self.opened.layer.next_written(self.at, (bytes_max as u64 / PIECE_BYTES).max(1));
            if let Some(pieces) = range {
                self.at = pieces.end;
                let read = self.read(pieces);
                self.parts = read.map_err(self.disk.failed("read"))?;
            }
        }
        // Whatever was read before this was there all the time.
        if self.opened.layer.changes() != self.changes {
            let message = format!("somebody began to write to {} while it was read", self.disk.name());
            return Err(CacheError::Refused(message));
        }
        Ok(self.parts.pop_front())
    }

    fn read(&self, pieces: Range<u64>) -> io::Result<VecDeque<WrittenPart>> {
        let (start, end) = (pieces.start * PIECE_BYTES, (pieces.end * PIECE_BYTES).min(self.disk.size()));
        let mut bytes = vec![0; (end - start) as usize];
        self.opened.layer.read(start, &mut bytes, Wait::Yes)?;
        let mut parts: VecDeque<WrittenPart> = VecDeque::new();
        for (piece, content) in pieces.zip(bytes.chunks(PIECE_BYTES as usize)) {
            let at = piece * PIECE_BYTES;
            let range = at..at + content.len() as u64;
            let is_zero = content.iter().all(|byte| *byte == 0);
            match parts.back_mut() {
                Some(WrittenPart { range: before, bytes: None }) if is_zero => before.end = range.end,
                Some(WrittenPart { range: before, bytes: Some(bytes) }) if !is_zero => {
                    before.end = range.end;
                    bytes.extend_from_slice(content);
                }
                _ => parts.push_back(WrittenPart { range, bytes: (!is_zero).then(|| content.to_vec()) }),
            }
        }
        Ok(parts)
    }
}
