//! What was written over a version's disk, as it travels: the plain bytes of a [stream](crate::StreamEncoder)'s frames.
//!
//! The first frame is a JSON object that says over which disk of which version. Each of the others holds whole records of
//! what was written, in ascending order: 16 bytes (offset and length as little-endian `u64` and `u32`, and 4 bytes that say
//! whether bytes follow or all are zeros), then the bytes. Places and lengths are whole pieces of 4 KiB, but at the disk's end.

use icbd_image::{ClientName, Root, Serial, VersionId};
use serde::{Deserialize, Serialize};

use crate::STREAM_FRAME_BYTES;

/// What is written at least: a disk's own sector, or eight of them.
pub const WRITTEN_PIECE_BYTES: u64 = 4096;
/// The most that one record holds, so that it fits into a frame.
pub const WRITTEN_RUN_BYTES_MAX: usize = STREAM_FRAME_BYTES - WRITTEN_PIECE_BYTES as usize;

const FORMAT: u32 = 1;
const RECORD_BYTES: usize = 16;
const BYTES_FOLLOW: u32 = 0;
const ALL_ZEROS: u32 = 1;

/// Over what was written, and how much.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenHead {
    pub client: ClientName,
    pub version: VersionId,
    pub serial: Serial,
    pub root: Root,
    /// The path of the disk in its version.
    pub file: String,
    pub file_bytes: u64,
    pub written_bytes: u64,
}

#[derive(Serialize, Deserialize)]
struct OnWire {
    format: u32,
    #[serde(flatten)]
    head: WrittenHead,
}

/// What was written to one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenRun<'a> {
    pub offset: u64,
    pub length: u64,
    /// Absent: all zeros.
    pub bytes: Option<&'a [u8]>,
}

/// Why bytes are not what was written over a disk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WrittenError {
    #[error("its beginning is not the JSON that icbd expects: {0}")]
    Head(String),
    #[error("it has format {0}; this icbd reads format {FORMAT}")]
    Format(u32),
    #[error("a record is cut off, or of an unknown kind")]
    Record,
    #[error("a record of {length} bytes at {offset} is out of its order, or past the end of the disk")]
    Place { offset: u64, length: u64 },
    #[error("it ended after {found} of {announced} bytes")]
    Short { found: u64, announced: u64 },
}

/// Puts records into frames.
#[derive(Debug, Default)]
pub struct WrittenFrame(Vec<u8>);

/// Takes frames apart, and sees that all that was announced comes.
#[derive(Debug)]
pub struct WrittenReader {
    head: WrittenHead,
    /// Where the next record begins at least.
    at: u64,
    found_bytes: u64,
}

impl WrittenHead {
    /// The first frame.
    pub fn encode(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&OnWire { format: FORMAT, head: self.clone() })
    }
}

impl WrittenFrame {
    /// Whether so many bytes, or zeros, still fit.
    pub fn has_room(&self, bytes: Option<&[u8]>) -> bool {
        self.0.len() + RECORD_BYTES + bytes.map_or(0, <[u8]>::len) <= STREAM_FRAME_BYTES
    }

    pub fn push(&mut self, run: &WrittenRun<'_>) {
        let kind = if run.bytes.is_some() { BYTES_FOLLOW } else { ALL_ZEROS };
        self.0.extend_from_slice(&run.offset.to_le_bytes());
        self.0.extend_from_slice(&(run.length as u32).to_le_bytes());
        self.0.extend_from_slice(&kind.to_le_bytes());
        self.0.extend_from_slice(run.bytes.unwrap_or_default());
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The frame's plain bytes; the next one begins.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
}

impl WrittenReader {
    /// Reads the first frame.
    pub fn begin(frame: &[u8]) -> Result<WrittenReader, WrittenError> {
        #[derive(Deserialize)]
        struct Only {
            format: u32,
        }
        let wrong = |error: serde_json::Error| WrittenError::Head(error.to_string());
        let Only { format } = serde_json::from_slice(frame).map_err(wrong)?;
        if format != FORMAT {
            return Err(WrittenError::Format(format));
        }
        let OnWire { head, .. } = serde_json::from_slice(frame).map_err(wrong)?;
        Ok(WrittenReader { head, at: 0, found_bytes: 0 })
    }

    pub fn head(&self) -> &WrittenHead {
        &self.head
    }

    pub fn found_bytes(&self) -> u64 {
        self.found_bytes
    }

    /// The records of the next frame, each at a place where it may be.
    pub fn runs<'f>(&mut self, mut frame: &'f [u8]) -> Result<Vec<WrittenRun<'f>>, WrittenError> {
        let mut runs = Vec::new();
        while let Some((header, rest)) = frame.split_first_chunk::<RECORD_BYTES>() {
            let [offset @ .., _, _, _, _, _, _, _, _] = *header;
            let [_, _, _, _, _, _, _, _, a, b, c, d, kind @ ..] = *header;
            let (offset, length) = (u64::from_le_bytes(offset), u64::from(u32::from_le_bytes([a, b, c, d])));
            self.pass(offset, length)?;
            let (bytes, rest) = match u32::from_le_bytes(kind) {
                BYTES_FOLLOW => rest.split_at_checked(length as usize).map(|(bytes, rest)| (Some(bytes), rest)),
                ALL_ZEROS => Some((None, rest)),
                _ => None,
            }
            .ok_or(WrittenError::Record)?;
            runs.push(WrittenRun { offset, length, bytes });
            frame = rest;
        }
        if frame.is_empty() { Ok(runs) } else { Err(WrittenError::Record) }
    }

    fn pass(&mut self, offset: u64, length: u64) -> Result<(), WrittenError> {
        let size = self.head.file_bytes;
        let is_border = |at: u64| at.is_multiple_of(WRITTEN_PIECE_BYTES) || at == size;
        let end = offset.checked_add(length).filter(|end| *end <= size && is_border(*end));
        let is_next = offset >= self.at && offset.is_multiple_of(WRITTEN_PIECE_BYTES) && length > 0;
        self.at = end.filter(|_| is_next).ok_or(WrittenError::Place { offset, length })?;
        self.found_bytes += length;
        Ok(())
    }

    /// That all of it came.
    pub fn finish(&self) -> Result<(), WrittenError> {
        let (found, announced) = (self.found_bytes, self.head.written_bytes);
        if found == announced { Ok(()) } else { Err(WrittenError::Short { found, announced }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(file_bytes: u64, written_bytes: u64) -> WrittenHead {
        WrittenHead {
            client: "pc-1".parse().unwrap(),
            version: "lab@1".parse().unwrap(),
            serial: serde_json::from_str("\"17\"").or_else(|_| serde_json::from_str("17")).unwrap(),
            root: Root::of(b"x"),
            file: "disk.raw".to_owned(),
            file_bytes,
            written_bytes,
        }
    }

    fn reader(file_bytes: u64, written_bytes: u64) -> WrittenReader {
        WrittenReader::begin(&head(file_bytes, written_bytes).encode().unwrap()).unwrap()
    }

    fn frame(runs: &[(u64, u64, Option<&[u8]>)]) -> Vec<u8> {
        let mut frame = WrittenFrame::default();
        for (offset, length, bytes) in runs {
            frame.push(&WrittenRun { offset: *offset, length: *length, bytes: *bytes });
        }
        frame.take()
    }

    #[test]
    fn what_was_written_round_trips() {
        let mut reader = reader(20_000, 4096 + 3616 + 8192);
        assert_eq!(reader.head(), &head(20_000, 4096 + 3616 + 8192));
        let bytes = frame(&[(0, 4096, Some(&[7; 4096])), (4096, 8192, None)]);
        let runs = reader.runs(&bytes).unwrap();
        assert_eq!(runs[0], WrittenRun { offset: 0, length: 4096, bytes: Some(&[7; 4096]) });
        assert_eq!(runs[1], WrittenRun { offset: 4096, length: 8192, bytes: None });
        assert_eq!(reader.finish(), Err(WrittenError::Short { found: 12288, announced: 15904 }));
        reader.runs(&frame(&[(16384, 3616, Some(&[8; 3616]))])).unwrap();
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn records_stay_in_their_places() {
        let check = |runs: &[(u64, u64, Option<&[u8]>)], offset, length| {
            let refused = reader(20_000, 0).runs(&frame(runs)).unwrap_err();
            assert_eq!(refused, WrittenError::Place { offset, length });
        };
        check(&[(512, 4096, None)], 512, 4096);
        check(&[(0, 512, None)], 0, 512);
        check(&[(0, 0, None)], 0, 0);
        check(&[(4096, 4096, None), (4096, 4096, None)], 4096, 4096);
        check(&[(4096, 4096, None), (0, 4096, None)], 0, 4096);
        check(&[(16384, 4096, None)], 16384, 4096);
        check(&[(u64::MAX - 4095, 4096, None)], u64::MAX - 4095, 4096);
        let whole = frame(&[(0, 4096, Some(&[7; 4096]))]);
        for len in 1..whole.len() {
            assert_eq!(reader(20_000, 0).runs(&whole[..len]), Err(WrittenError::Record), "{len} bytes");
        }
        let other = String::from_utf8(head(1, 1).encode().unwrap()).unwrap().replace("\"format\":1", "\"format\":2");
        assert_eq!(WrittenReader::begin(other.as_bytes()).unwrap_err(), WrittenError::Format(2));
        assert!(matches!(WrittenReader::begin(b"{}"), Err(WrittenError::Head(_))));
    }

    #[test]
    fn a_frame_takes_the_longest_record() {
        let bytes = vec![1; WRITTEN_RUN_BYTES_MAX];
        let mut frame = WrittenFrame::default();
        assert!(frame.has_room(Some(&bytes)));
        frame.push(&WrittenRun { offset: 0, length: bytes.len() as u64, bytes: Some(&bytes) });
        assert!(!frame.has_room(Some(&bytes[..4096])) && frame.take().len() <= STREAM_FRAME_BYTES);
    }

    proptest! {
        #[test]
        fn nonsense_is_refused_or_within_the_disk(frame in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = WrittenReader::begin(&frame);
            let mut reader = reader(1 << 20, 0);
            if let Ok(runs) = reader.runs(&frame) {
                prop_assert!(runs.iter().all(|run| run.offset + run.length <= 1 << 20));
            }
        }
    }
}
