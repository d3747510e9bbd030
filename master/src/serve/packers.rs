//! What packing a run takes, used again.
//!
//! A compressor's tables and the room for a frame are some mebibytes. Made anew for each run, they were a tenth of what a
//! master did for boots over a fast line: memory to be faulted in and cleared.

use std::sync::{Mutex, PoisonError};

use icbd_wire::FrameEncoder;

/// How many are kept: each takes up to 8 MiB.
const KEPT_MAX: usize = 8;

/// Encoders that are free, each with the room for its frames.
#[derive(Debug, Default)]
pub(super) struct Packers(Mutex<Vec<(FrameEncoder, Vec<u8>)>>);

impl Packers {
    /// Has `pack` use one. The room is empty.
    pub(super) fn with<T>(&self, pack: impl FnOnce(&mut FrameEncoder, &mut Vec<u8>) -> T) -> T {
        let free = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let (mut encoder, mut frames) = free.unwrap_or_default();
        let packed = pack(&mut encoder, &mut frames);
        frames.clear();
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < KEPT_MAX {
            free.push((encoder, frames));
        }
        packed
    }
}
