//! Memory for what is read and sent on, used again.
//!
//! A buffer of a mebibyte that is made for each piece has to be cleared, and faulted in page by page whenever the
//! allocator gave it back in between: [an eighth of a master's work at full speed]. These are cleared once.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// What a piece of an answer takes: 1 MiB of data, and the headers of its frames.
const BUFFER_BYTES: usize = (1 << 20) + 4096;
/// Shorter pieces are made anew: many of them may be on their way at once.
const SHARED_BYTES_MIN: usize = 256 << 10;
/// Buffers that are kept for the next pieces.
const KEPT_MAX: usize = 16;

/// The buffers that are free.
#[derive(Debug, Clone, Default)]
pub(super) struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

/// Memory to be filled: what was in it before is still there.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    len: usize,
    /// Where it goes when nobody needs it any more.
    home: Option<Buffers>,
}

impl Buffers {
    /// `len` bytes of anything.
    pub(super) fn take(&self, len: usize) -> Buffer {
        if !(SHARED_BYTES_MIN..=BUFFER_BYTES).contains(&len) {
            return Buffer { bytes: vec![0; len], len, home: None };
        }
        let free = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let bytes = free.unwrap_or_else(|| vec![0; BUFFER_BYTES]);
        Buffer { bytes, len, home: Some(self.clone()) }
    }
}

impl Buffer {
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }

    /// To be sent. Comes back when the last part of it was.
    pub(super) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(home) = self.home.take() else { return };
        let mut free = home.0.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < KEPT_MAX {
            free.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(buffers: &Buffers) -> usize {
        buffers.0.lock().unwrap().len()
    }

    #[test]
    fn a_buffer_comes_back_with_the_last_part_of_it() {
        let buffers = Buffers::default();
        let mut buffer = buffers.take(300 << 10);
        buffer.bytes_mut().fill(7);
        let bytes = buffer.freeze();
        let part = bytes.slice(1000..);
        drop(bytes);
        assert_eq!((kept(&buffers), part.len(), part[5]), (0, (300 << 10) - 1000, 7));
        drop(part);
        assert_eq!(kept(&buffers), 1);
        assert_eq!(buffers.take(1 << 20).bytes_mut().len(), 1 << 20);
    }

    #[test]
    fn what_is_short_or_too_many_is_not_kept() {
        let buffers = Buffers::default();
        drop(buffers.take(1000));
        assert_eq!(kept(&buffers), 0);
        let many: Vec<_> = (0..KEPT_MAX + 3).map(|_| buffers.take(1 << 20)).collect();
        drop(many);
        assert_eq!(kept(&buffers), KEPT_MAX);
    }
}
