//! Runs that are sent as they are stored: read to where they are sent from.

use bytes::Bytes;
use icbd_image::{Run, block_len};
use icbd_wire::{Check, HEADER_BYTES, frame_header, raw_frames};

use crate::{MasterError, Repository};

impl Repository {
    /// The frames of `run` without any packing. What goes through here goes at the speed of the line: no copies.
    pub(super) fn raw_run(&self, run: Run, check: Check) -> Result<Bytes, MasterError> {
        let reader = self.blocks(run)?;
        let hashes = reader.hashes(run.blocks())?;
        let hash = |block: u64| &hashes[(block - run.first) as usize];
        let frames = raw_frames(&run, |block| hash(block).is_zero());
        let data_bytes = |blocks: std::ops::Range<u64>, zeros: bool| -> usize {
            if zeros { 0 } else { blocks.map(|block| block_len(reader.file_bytes(), block)).sum() }
        };
        let all = frames.iter().map(|(blocks, zeros)| HEADER_BYTES + data_bytes(blocks.clone(), *zeros)).sum();
        let mut body = self.serving.buffers.take(all);
        let mut rest = body.bytes_mut();
        for (blocks, zeros) in frames {
            let bytes = data_bytes(blocks.clone(), zeros);
            let (frame, others) = std::mem::take(&mut rest).split_at_mut(HEADER_BYTES + bytes);
            rest = others;
            let (header, data) = frame.split_at_mut(HEADER_BYTES);
            header.copy_from_slice(&frame_header((blocks.end - blocks.start) as usize, bytes));
            if !zeros {
                let (first, end) = ((blocks.start - run.first) as usize, (blocks.end - run.first) as usize);
                reader.read_into(blocks.start, &hashes[first..end], data, check)?;
            }
        }
        Ok(body.freeze())
    }
}
