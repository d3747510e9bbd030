//! Which parts of a file hold data, and the pieces in which large files are copied and hashed.

use std::ops::Range;
use std::os::fd::BorrowedFd;

use icbd_image::BLOCK_BYTES;
use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// What one thread takes at a time: large enough that taking is free, small enough that one disk image keeps
/// every core busy to its end. A whole number of blocks.
pub(crate) const PIECE_BYTES: u64 = 256 * BLOCK_BYTES;

/// The first byte at or after `offset` that is not in a hole; `None` if only a hole follows.
pub(crate) fn data_after(file: BorrowedFd<'_>, offset: u64) -> rustix::io::Result<Option<u64>> {
    match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(at) => Ok(Some(at)),
        Err(Errno::NXIO) => Ok(None),
        // A file system that knows no holes.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some(offset)),
        Err(error) => Err(error),
    }
}

/// The parts of `within` that hold data, in order.
pub(crate) fn segments(file: BorrowedFd<'_>, within: Range<u64>) -> rustix::io::Result<Vec<Range<u64>>> {
    let mut segments = Vec::new();
    let mut offset = within.start;
    while let Some(start) = data_after(file, offset)?.filter(|start| *start < within.end) {
        let end = match rustix::fs::seek(file, SeekFrom::Hole(start)) {
            Ok(end) if end > start => end.min(within.end),
            // Cut off meanwhile, or no holes known.
            Ok(_) | Err(Errno::NXIO | Errno::INVAL | Errno::OPNOTSUPP) => within.end,
            Err(error) => return Err(error),
        };
        segments.push(start..end);
        offset = end;
        if offset >= within.end {
            break;
        }
    }
    Ok(segments)
}

/// The next piece of a file of `file_bytes` that holds data: aligned, at or after `offset`, itself a multiple of the piece.
pub(crate) fn next_piece(file: BorrowedFd<'_>, offset: u64, file_bytes: u64) -> rustix::io::Result<Option<Range<u64>>> {
    if offset >= file_bytes {
        return Ok(None);
    }
    let data = data_after(file, offset)?.filter(|data| *data < file_bytes);
    Ok(data.map(|data| {
        let start = data / PIECE_BYTES * PIECE_BYTES;
        start..(start + PIECE_BYTES).min(file_bytes)
    }))
}

/// The blocks that `segments` touch, of a piece that begins at byte `start`, as runs of block offsets in the piece.
pub(crate) fn touched_blocks(start: u64, segments: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for segment in segments {
        let run = (segment.start - start) / BLOCK_BYTES..(segment.end - start).div_ceil(BLOCK_BYTES);
        match runs.last_mut() {
            Some(last) if run.start <= last.end => last.end = last.end.max(run.end),
            _ => runs.push(run),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    #[test]
    fn only_pieces_with_data_are_taken() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(10 * PIECE_BYTES + 7).unwrap();
        file.write_all_at(b"x", 3 * PIECE_BYTES + 5 * BLOCK_BYTES).unwrap();
        file.write_all_at(b"x", 10 * PIECE_BYTES + 6).unwrap();
        let mut pieces = Vec::new();
        let mut offset = 0;
        while let Some(piece) = next_piece(file.as_fd(), offset, 10 * PIECE_BYTES + 7).unwrap() {
            offset = piece.end;
            pieces.push(piece);
        }
        assert_eq!(pieces, [3 * PIECE_BYTES..4 * PIECE_BYTES, 10 * PIECE_BYTES..10 * PIECE_BYTES + 7]);
        let segments = segments(file.as_fd(), pieces[0].clone()).unwrap();
        assert_eq!(touched_blocks(pieces[0].start, &segments), [Range { start: 5, end: 6 }]);
    }

    #[test]
    fn segments_that_share_a_block_make_one_run() {
        let segments = [0..1, BLOCK_BYTES - 1..BLOCK_BYTES + 1, 3 * BLOCK_BYTES..4 * BLOCK_BYTES];
        assert_eq!(touched_blocks(0, &segments), [0..2, 3..4]);
    }
}
