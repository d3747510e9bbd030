//! A version as a stream of its source's file system.

use icbd_wire::{Codec, StreamDecoder, StreamError};

use super::answer::Answer;
use crate::error::SourceError;

/// The plain bytes of a stream, as they come.
#[derive(Debug)]
pub struct VersionStream {
    answer: Answer,
    decoder: StreamDecoder,
}

impl VersionStream {
    pub(super) fn new(answer: Answer, codec: Codec) -> VersionStream {
        VersionStream { answer, decoder: StreamDecoder::new(codec) }
    }

    /// The next bytes; `None` after the last, which is the end of all of it.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, SourceError> {
        loop {
            if let Some(plain) = self.decoder.take().map_err(broken)? {
                return Ok(Some(plain));
            }
            match self.answer.chunk().await? {
                Some(chunk) => self.decoder.push(&chunk),
                None => return self.decoder.finish().map(|()| None).map_err(broken),
            }
        }
    }
}

fn broken(error: StreamError) -> SourceError {
    match error {
        StreamError::Short => SourceError::Interrupted(error.to_string()),
        StreamError::Long(_) | StreamError::Packed | StreamError::Check | StreamError::Trailing => {
            SourceError::Malformed(error.to_string())
        }
    }
}
