//! Runs packed and unpacked again in any pieces, and answers that must be refused.

use bytes::Bytes;
use icbd_image::{BLOCK_BYTES, FileIndex, Root, Run, block_count, block_len, is_zero};
use proptest::prelude::*;

use super::pack::{Packer, Unpacker};
use super::*;
use crate::{BlockPlace, Codec, Likeness, Similar, encode_matched_run, encode_run, raw_frames};

/// What a block of a test's file contains.
#[derive(Debug, Clone, Copy)]
enum Content {
    Zero,
    Text,
    Noise,
}

fn block(content: Content, len: usize, mut seed: u64) -> Bytes {
    match content {
        Content::Zero => vec![0; len].into(),
        Content::Text => format!("block {seed} of a file, ").into_bytes().into_iter().cycle().take(len).collect(),
        Content::Noise => {
            seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let noise = || {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                // Never zero: a short block of noise must not become a zero block.
                ((seed >> 32) as u8).max(1)
            };
            std::iter::repeat_with(noise).take(len).collect()
        }
    }
}

/// A file of these blocks, the last of them `short` bytes shorter.
fn file(contents: &[Content], short: u64) -> (u64, Vec<Bytes>) {
    let file_bytes = contents.len() as u64 * BLOCK_BYTES - short;
    let blocks = (0..).zip(contents).map(|(i, content)| block(*content, block_len(file_bytes, i), i)).collect();
    (file_bytes, blocks)
}

fn run(first: u64, count: u32) -> Run {
    Run { root: Root::of(b""), file: FileIndex::ROOT, first, count }
}

fn encode(blocks: &[Bytes], run: &Run, codec: Codec) -> Vec<Bytes> {
    let (answer, Ok(())) = encode_with(blocks, run, codec, |_| Ok::<_, std::convert::Infallible>(()));
    frames(answer.into())
}

/// The same by who cannot read what `may_read` refuses.
fn encode_with<E>(
    blocks: &[Bytes],
    run: &Run,
    codec: Codec,
    may_read: impl Fn(u64) -> Result<(), E>,
) -> (Vec<u8>, Result<(), E>) {
    let mut answer = Vec::new();
    let file_bytes = blocks.iter().map(|block| block.len() as u64).sum();
    let zero = |block: u64| is_zero(&blocks[block as usize]);
    let read = |first: u64, bytes: &mut [u8]| {
        let count = bytes.len().div_ceil(BLOCK_BYTES as usize) as u64;
        (first..first + count).try_for_each(&may_read)?;
        bytes.copy_from_slice(&blocks[first as usize..(first + count) as usize].concat());
        Ok(())
    };
    let ended = encode_run(&mut FrameEncoder::new(), run, file_bytes, codec, zero, read, &mut answer);
    (answer, ended)
}

/// Some blocks as one frame.
fn one_frame<B: AsRef<[u8]>>(encoder: &mut FrameEncoder, blocks: &[B], codec: Codec) -> Vec<u8> {
    let (mut frame, plain) = (Vec::new(), blocks.iter().flat_map(|block| block.as_ref()).copied().collect::<Vec<u8>>());
    let read = |bytes: &mut [u8]| {
        bytes.copy_from_slice(&plain);
        Ok::<_, std::convert::Infallible>(())
    };
    let Ok(()) = encoder.encode(blocks.len(), plain.len(), codec, read, &mut frame);
    frame
}

/// An answer, frame by frame.
fn frames(mut answer: Bytes) -> Vec<Bytes> {
    let mut frames = Vec::new();
    while !answer.is_empty() {
        let [.., a, b, c, d] = answer[..HEADER_BYTES] else { unreachable!() };
        frames.push(answer.split_to(HEADER_BYTES + u32::from_le_bytes([a, b, c, d]) as usize));
    }
    frames
}

/// Decodes `answer` in pieces of `piece` bytes; holds the decoder to its promise about memory.
fn decode(run: &Run, file_bytes: u64, answer: &[u8], piece: usize) -> Result<Vec<(u64, Bytes)>, FrameError> {
    let frame_max = HEADER_BYTES + FRAME_BLOCKS_MAX * BLOCK_BYTES as usize;
    let mut decoder = FrameDecoder::new(run.first, run.count, file_bytes);
    let mut blocks = Vec::new();
    for chunk in answer.chunks(piece) {
        decoder.push(Bytes::copy_from_slice(chunk));
        while let Some(next) = decoder.next()? {
            blocks.push(next);
            assert!(decoder.ready_blocks() < FRAME_BLOCKS_MAX);
        }
        // What a growing buffer may have is twice what it needs.
        assert!(decoder.pending_capacity() <= 2 * (frame_max + piece), "{}", decoder.pending_capacity());
    }
    decoder.finish()?;
    Ok(blocks)
}

fn contents() -> impl Strategy<Value = Vec<Content>> {
    let run_of = |content| (Just(content), 1usize..20);
    let pieces = prop_oneof![run_of(Content::Zero), run_of(Content::Text), run_of(Content::Noise)];
    prop::collection::vec(pieces, 1..5).prop_map(|pieces| {
        pieces.into_iter().flat_map(|(content, count)| std::iter::repeat_n(content, count)).collect()
    })
}

fn codec() -> impl Strategy<Value = Codec> {
    prop::sample::select(&Codec::ALL)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn runs_round_trip_in_any_pieces(
        contents in contents(),
        short in 0..BLOCK_BYTES,
        codec in codec(),
        from: prop::sample::Index,
        piece in prop_oneof![Just(1usize << 14), 500..3_000_000usize, Just(usize::MAX >> 8)],
    ) {
        let (file_bytes, blocks) = file(&contents, short);
        let first = from.index(blocks.len());
        let run = run(first as u64, (blocks.len() - first) as u32);
        let frames = encode(&blocks, &run, codec);
        let mut next = run.first;
        for frame in &frames {
            let count = u64::from(frame[0]);
            let kinds = (next..next + count).filter(|block| is_zero(&blocks[*block as usize])).count() as u64;
            prop_assert!(kinds == 0 || (kinds == count && frame.len() == HEADER_BYTES));
            prop_assert!(next != run.first || count == 1, "the block that is waited for is not alone");
            next += count;
        }
        prop_assert_eq!(next, run.end());
        let decoded = decode(&run, file_bytes, &frames.concat(), piece.min(1 << 24)).unwrap();
        let expected: Vec<_> = run.blocks().map(|block| (block, blocks[block as usize].clone())).collect();
        prop_assert!(decoded == expected);
    }

    #[test]
    fn damage_never_panics_and_never_yields_a_block_of_another_length(
        contents in contents(),
        codec in codec(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..6),
        cut in any::<Option<prop::sample::Index>>(),
        piece in 1000..100_000usize,
    ) {
        let (file_bytes, blocks) = file(&contents, 17);
        let run = run(0, blocks.len() as u32);
        let mut answer = encode(&blocks, &run, codec).concat();
        for (at, byte, in_first_frame) in edits {
            let within = if in_first_frame { answer.len().min(64) } else { answer.len() };
            answer[at.index(within)] = byte;
        }
        if let Some(cut) = cut {
            answer.truncate(cut.index(answer.len()));
        }
        if let Ok(decoded) = decode(&run, file_bytes, &answer, piece) {
            prop_assert_eq!(decoded.len(), blocks.len());
            for (index, (number, bytes)) in (0..).zip(&decoded) {
                prop_assert_eq!((*number, bytes.len()), (index, block_len(file_bytes, index)));
            }
        }
    }
}

#[test]
fn an_answer_arrives_byte_by_byte() {
    let (file_bytes, blocks) = file(&[Content::Text, Content::Zero, Content::Text], 9);
    let run = run(0, 3);
    let answer = encode(&blocks, &run, Codec::Zstd).concat();
    let decoded = decode(&run, file_bytes, &answer, 1).unwrap();
    assert!(decoded.iter().map(|(_, bytes)| bytes).eq(&blocks));
}

#[test]
fn what_a_codec_shrinks_is_packed_and_the_rest_goes_as_it_is() {
    let check = |content, codec, packing: u8, at_most: usize| {
        let frame = &encode(&[block(content, 65536, 1)], &run(0, 1), codec)[0];
        assert_eq!(frame[..4], [1, packing, 0, 0], "{content:?} {codec}");
        assert!(frame.len() <= at_most, "{content:?} {codec}: {} bytes", frame.len());
    };
    check(Content::Text, Codec::None, 1, 65544);
    check(Content::Text, Codec::Lz4, 2, 1000);
    check(Content::Text, Codec::Zstd, 3, 200);
    check(Content::Text, Codec::Zlib, 4, 1000);
    check(Content::Text, Codec::Snappy, 5, 4000);
    for codec in Codec::ALL {
        check(Content::Noise, codec, 1, 65544);
    }
    check(Content::Zero, Codec::Zstd, 0, 8);
    // What is noise only in parts is packed by all.
    for codec in [Codec::Lz4, Codec::Zstd, Codec::Zlib, Codec::Snappy] {
        let blocks = [Content::Noise, Content::Text, Content::Noise, Content::Noise];
        let blocks = blocks.map(|content| block(content, 65536, 1));
        let frame = one_frame(&mut FrameEncoder::new(), &blocks, codec);
        assert!(frame[1] > 1 && frame.len() < 210 << 10, "{codec}: {} bytes", frame.len());
    }
    // All 256 values, each equally often and never twice near: nothing to gain.
    let counter: Vec<u8> = (0..64u32).flat_map(|i| i.wrapping_mul(0x9e37_79b9).to_be_bytes()).collect();
    for codec in Codec::ALL {
        let frame = one_frame(&mut FrameEncoder::new(), &[&counter], codec);
        assert_eq!((frame[1], frame.len()), (1, 8 + 256), "{codec}");
    }
}

#[test]
fn an_encoder_leaves_nothing_of_a_frame_in_the_next() {
    let mut encoder = FrameEncoder::new();
    for codec in Codec::ALL {
        for content in [Content::Text, Content::Noise, Content::Text] {
            let blocks = [block(content, 65536, 5), block(content, 77, 6)];
            let (reused, fresh) = (&mut encoder, &mut FrameEncoder::new());
            assert!(one_frame(reused, &blocks, codec) == one_frame(fresh, &blocks, codec), "{codec} {content:?}");
        }
    }
}

#[test]
fn headers_that_claim_too_much_are_refused_at_once() {
    // A file of 20 blocks and a byte; the run begins at block 4.
    let file_bytes = 20 * BLOCK_BYTES + 1;
    let check = |header: [u8; 8], says: &str| {
        let mut decoder = FrameDecoder::new(4, 1024, file_bytes);
        decoder.push(Bytes::copy_from_slice(&header));
        let error = decoder.next().unwrap_err();
        assert!(error.is_permanent() && error.to_string().contains(says), "{header:?}: {error}");
        assert_eq!(decoder.pending_capacity(), 0, "nothing was kept or allocated for it");
        decoder.push(Bytes::from_static(&[0; 100]));
        assert_eq!(decoder.next().unwrap_err(), error, "and it stays so");
        assert_eq!(decoder.finish().unwrap_err(), error);
    };
    check([0, 1, 0, 0, 0, 0, 0, 0], "claims 0 blocks; 1 to 16");
    check([17, 0, 0, 0, 0, 0, 0, 0], "claims 17 blocks");
    check([1, 6, 0, 0, 1, 0, 0, 0], "packing 6");
    check([1, 9, 0, 0, 0, 0, 0, 0], "packing 9");
    check([1, 1, 1, 0, 0, 0, 1, 0], "reserved");
    check([1, 1, 0, 0, 255, 255, 255, 255], "claims 4294967295 bytes for blocks of 65536");
    check([1, 1, 0, 0, 255, 255, 0, 0], "claims 65535 bytes");
    check([1, 3, 0, 0, 0, 0, 1, 0], "claims 65536 bytes");
    check([1, 2, 0, 0, 0, 0, 0, 0], "claims 0 bytes");
    check([1, 4, 0, 0, 0, 0, 1, 0], "claims 65536 bytes");
    check([1, 5, 0, 0, 255, 255, 255, 0], "claims 16777215 bytes");
    check([1, 0, 0, 0, 1, 0, 0, 0], "claims 1 bytes");
}

#[test]
fn a_run_past_the_end_of_its_file_ends_with_the_file() {
    let (file_bytes, blocks) = file(&[Content::Text; 3], 60_000);
    let answer = encode(&blocks, &run(1, 2), Codec::Lz4).concat();
    assert_eq!(decode(&run(1, 500), file_bytes, &answer, 4096).unwrap().len(), 2);
    assert_eq!(decode(&run(3, 1), file_bytes, &[], 1).unwrap(), []);
    assert_eq!(decode(&run(u64::MAX, u32::MAX), file_bytes, &[], 1).unwrap(), []);
    assert_eq!(decode(&run(0, 1), u64::MAX, &[1, 0, 0, 0, 0, 0, 0, 0], 1).unwrap().len(), 1);
}

#[test]
fn an_answer_that_ends_early_or_late_is_noticed() {
    let (file_bytes, blocks) = file(&[Content::Text; 18], 0);
    let run = run(0, 18);
    let answer = encode(&blocks, &run, Codec::Lz4).concat();
    for len in (0..answer.len()).step_by(23) {
        let error = decode(&run, file_bytes, &answer[..len], 4096).unwrap_err();
        assert!(matches!(error, FrameError::Cut { .. }) && !error.is_permanent(), "cut at {len}: {error}");
    }
    let more = [answer.as_slice(), b"x"].concat();
    assert_eq!(decode(&run, file_bytes, &more, 4096), Err(FrameError::Trailing));
    let mut decoder = FrameDecoder::new(0, 18, file_bytes);
    decoder.push(answer.into());
    assert!(matches!(decoder.finish(), Err(FrameError::Cut { next: 0, .. })), "blocks that nobody took");
}

#[test]
fn zero_blocks_cost_no_memory_of_their_own() {
    let (file_bytes, blocks) = file(&[Content::Zero; 16], 0);
    let run = run(0, 16);
    let decoded = decode(&run, file_bytes, &encode(&blocks, &run, Codec::Zstd).concat(), 8).unwrap();
    let addresses: Vec<_> = decoded.iter().map(|(_, bytes)| bytes.as_ptr()).collect();
    assert_eq!(addresses[0], addresses[1], "both are the start of the same static zeros");
    assert_eq!(block_count(file_bytes), decoded.len() as u64);
}

#[test]
fn an_error_ends_a_run_after_good_frames() {
    let (file_bytes, blocks) = file(&[Content::Text; 40], 0);
    let may_read = |block: u64| if block < 30 { Ok(()) } else { Err(block) };
    let (answer, failed) = encode_with(&blocks, &run(0, 40), Codec::None, may_read);
    assert_eq!((failed, frames(answer.clone().into()).len()), (Err(30), 2), "one block, and 16");
    assert_eq!(decode(&run(0, 17), file_bytes, &answer, 4096).unwrap().len(), 17);
}

/// What a master puts together in place is, byte for byte, what packing nothing makes.
#[test]
fn frames_put_together_in_place_are_the_same() {
    use Content::{Noise, Zero};
    let long = [[Noise; 20].as_slice(), &[Zero; 18], &[Noise, Zero, Noise]].concat();
    for (contents, first, count) in
        [(&long, 0, 41), (&long, 3, 30), (&long, 19, 2), (&long, 37, 4), (&vec![Zero; 9], 2, 5)]
    {
        let (file_bytes, blocks) = file(contents, 77);
        let run = run(first, count);
        let mut made = Vec::new();
        for (part, zeros) in raw_frames(&run, |block| is_zero(&blocks[block as usize])) {
            let data: Vec<u8> = blocks[part.start as usize..part.end as usize].concat();
            let data = if zeros { &[] } else { &*data };
            made.push([&frame_header((part.end - part.start) as usize, data.len()), data].concat());
        }
        assert_eq!(made, encode(&blocks, &run, Codec::None), "{first} {count} of {file_bytes}");
    }
}

/// A version of one file, all of whose blocks can be had but those from `lost` on.
#[derive(Debug, Clone)]
struct OldVersion {
    blocks: Vec<Bytes>,
    lost: u64,
}

impl OldVersion {
    fn of_noise(blocks: u64) -> OldVersion {
        let blocks: Vec<Bytes> =
            (0..blocks).map(|seed| block(Content::Noise, BLOCK_BYTES as usize, seed + 99)).collect();
        OldVersion { lost: blocks.len() as u64, blocks }
    }

    fn similar(&self) -> Similar {
        let mut similar = Similar::builder(0);
        (0..)
            .zip(&self.blocks)
            .for_each(|(block, bytes)| similar.add(BlockPlace { file: FileIndex::ROOT, block }, bytes));
        similar.build()
    }

    /// Some blocks as they travel to somebody who has this version.
    fn encode(&self, blocks: &[Bytes]) -> Vec<u8> {
        self.encode_by(Likeness::Similar(&self.similar()), blocks)
    }

    fn encode_by(&self, likeness: Likeness<'_>, blocks: &[Bytes]) -> Vec<u8> {
        let mut answer = Vec::new();
        let read = |block: u64| Ok::<_, std::convert::Infallible>(blocks[block as usize].clone());
        let Ok(()) = encode_matched_run(&run(0, blocks.len() as u32), Matcher::new(likeness, self), read, |frame| {
            answer.extend_from_slice(&frame);
            Ok(())
        });
        answer
    }

    fn decode(self, file_bytes: u64, answer: &[u8]) -> Result<Vec<Bytes>, FrameError> {
        let mut decoder =
            FrameDecoder::new(0, block_count(file_bytes) as u32, file_bytes).with_base(std::sync::Arc::new(self));
        decoder.push(Bytes::copy_from_slice(answer));
        let mut blocks = Vec::new();
        while let Some((_, block)) = decoder.next()? {
            blocks.push(block);
        }
        decoder.finish().map(|()| blocks)
    }
}

impl Base for OldVersion {
    fn root(&self) -> Root {
        Root::of(b"old")
    }

    fn block(&self, place: BlockPlace) -> Option<Bytes> {
        self.blocks.get(place.block as usize).filter(|_| place.block < self.lost).cloned()
    }
}

/// Twenty blocks of noise, of which an old version has most bytes, a little moved; then zeros, and a short one of news.
fn moved(old: &OldVersion) -> (u64, Vec<Bytes>) {
    let all: Vec<u8> = old.blocks.concat();
    let shifted = all[12_345..].chunks_exact(BLOCK_BYTES as usize).map(Bytes::copy_from_slice);
    let mut blocks: Vec<Bytes> = shifted.take(20).collect();
    blocks.push(vec![0; BLOCK_BYTES as usize].into());
    blocks.push(block(Content::Noise, 1000, 5));
    (21 * BLOCK_BYTES + 1000, blocks)
}

#[test]
fn what_an_old_version_has_elsewhere_hardly_travels() {
    let old = OldVersion::of_noise(24);
    let (file_bytes, blocks) = moved(&old);
    let answer = old.encode(&blocks);
    // A tenth of it: the packer forgets some of what it could refer to.
    assert!(answer.len() < 140_000, "{} bytes", answer.len());
    assert_eq!(old.clone().decode(file_bytes, &answer).unwrap(), blocks);
    // Who has nothing of it cannot read these frames.
    let mut decoder = FrameDecoder::new(0, 22, file_bytes);
    decoder.push(answer.into());
    assert_eq!(decoder.next(), Err(FrameError::Packing { block: 0, found: 6 }));
}

/// An update in place: of every other block a piece is new.
#[test]
fn what_is_changed_in_its_place_travels_alone() {
    let old = OldVersion::of_noise(40);
    let changed = |(at, bytes): (usize, &Bytes)| {
        let mut bytes = bytes.to_vec();
        if at % 2 == 0 {
            bytes[5000..9000].copy_from_slice(&block(Content::Noise, 4000, at as u64));
        }
        Bytes::from(bytes)
    };
    let blocks: Vec<Bytes> = old.blocks.iter().enumerate().map(changed).collect();
    let answer = old.encode_by(Likeness::SamePlaces(FileIndex::ROOT), &blocks);
    // Of 2.6 MB 80 kB are new; the packer forgets some of what it could refer to.
    assert!(answer.len() < 400_000, "{} bytes", answer.len());
    assert_eq!(old.decode(40 * BLOCK_BYTES, &answer).unwrap(), blocks);
}

#[test]
fn an_old_version_that_is_not_whole_costs_bytes_at_one_end_and_an_answer_at_the_other() {
    let whole = OldVersion::of_noise(24);
    let (file_bytes, blocks) = moved(&whole);
    let damaged = OldVersion { lost: 12, ..whole.clone() };
    let answer = damaged.encode(&blocks);
    assert!((500_000..900_000).contains(&answer.len()), "{} bytes", answer.len());
    assert_eq!(whole.clone().decode(file_bytes, &answer).unwrap(), blocks);
    let refused = damaged.decode(file_bytes, &whole.encode(&blocks));
    assert!(matches!(refused, Err(FrameError::Reference { block: 0, referred: 12, .. })), "{refused:?}");
}

proptest! {
    /// Whatever comes, only what was asked for is given, or a refusal.
    #[test]
    fn damaged_references_are_refused(at in 0usize..400, xor in 1u8..=255) {
        let old = OldVersion::of_noise(24);
        let (file_bytes, blocks) = moved(&old);
        let mut answer = old.encode(&blocks);
        answer[at] ^= xor;
        if let Ok(decoded) = old.decode(file_bytes, &answer) {
            prop_assert!((0..).zip(decoded).all(|(at, bytes)| bytes.len() == block_len(file_bytes, at)));
        }
    }
}

/// What was given up half-way leaves nothing behind in the packer: the frame after it was none of zlib's.
#[test]
fn a_frame_that_was_given_up_spoils_none_after_it() {
    let (mut packer, mut unpacker) = (Packer::default(), Unpacker::default());
    let text: Vec<u8> = (0..2 << 20).map(|at: u32| (at % 251) as u8).collect();
    // Noise, but for a little where samples are taken: zlib begins, and gives up.
    let mut noise: Vec<u8> = block(Content::Noise, 2 << 20, 7).to_vec();
    noise.chunks_mut(64 << 10).for_each(|part| part[32 << 10..(32 << 10) + 1000].fill(b'a'));
    for codec in Codec::ALL {
        for _ in 0..3 {
            assert!(packer.pack(codec, &noise).is_none() || codec != Codec::Zlib, "zlib shrinks noise");
            let Some(packed) = packer.pack(codec, &text) else { continue };
            let mut unpacked = vec![0; text.len()];
            assert!(unpacker.unpack(Packing::of(codec), packed, &mut unpacked), "{codec}");
            assert!(unpacked == text, "{codec}: other bytes");
        }
    }
}
