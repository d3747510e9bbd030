//! Blocks, the hashes that identify them, and the one way a block's bytes become trusted.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

use crate::manifest::FileIndex;

/// Bytes in a block: the unit of hashing, residency and reuse.
///
/// A Debian boot touches 4.75 % of its image at 64 KiB, 6.0 % at 256 KiB and 9.2 % at 1 MiB.
pub const BLOCK_BYTES: u64 = 64 * 1024;

/// Block numbers end here: a file has at most 1 PiB.
pub(crate) const BLOCKS_MAX: u64 = 1 << 34;

/// How many blocks a file of `file_bytes` has; the last may be short.
pub fn block_count(file_bytes: u64) -> u64 {
    file_bytes.div_ceil(BLOCK_BYTES)
}

/// The length in bytes of block `index` of a file of `file_bytes`; 0 past its end.
pub fn block_len(file_bytes: u64, index: u64) -> usize {
    let start = index.saturating_mul(BLOCK_BYTES);
    file_bytes.saturating_sub(start).min(BLOCK_BYTES) as usize
}

/// Whether every byte is zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    // Whole words at a time: the compiler turns this into vector code.
    let (chunks, rest) = bytes.as_chunks::<64>();
    chunks.iter().all(|chunk| chunk.iter().fold(0, |acc, byte| acc | byte) == 0) && rest.iter().all(|byte| *byte == 0)
}

/// A BLAKE3 hash, or 32 zero bytes for content that is all zeros.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hash([u8; 32]);

impl Hash {
    /// Bytes of a hash on disk and wire.
    pub const BYTES: usize = 32;
    /// The hash of a block, or of a page of hashes, whose every byte is zero.
    pub const ZERO: Hash = Hash([0; 32]);

    /// The hash of a block or page: [`Hash::ZERO`] when all bytes are zero, whatever their number.
    pub fn of(bytes: &[u8]) -> Hash {
        if is_zero(bytes) { Hash::ZERO } else { Hash(*blake3::hash(bytes).as_bytes()) }
    }

    pub const fn from_bytes(bytes: [u8; 32]) -> Hash {
        Hash(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub fn is_zero(&self) -> bool {
        *self == Hash::ZERO
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Text that is not 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a hash is 64 lower-case hexadecimal digits, not {0:?}")]
pub struct HashTextError(String);

impl FromStr for Hash {
    type Err = HashTextError;

    fn from_str(text: &str) -> Result<Hash, HashTextError> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let refuse = || HashTextError(text.chars().take(80).collect());
        let pairs: &[[u8; 2]; 32] = text.as_bytes().as_chunks::<2>().0.try_into().map_err(|_| refuse())?;
        if text.len() != 64 {
            return Err(refuse());
        }
        let mut bytes = [0; 32];
        for (out, [high, low]) in bytes.iter_mut().zip(pairs) {
            *out = digit(*high).ok_or_else(refuse)? << 4 | digit(*low).ok_or_else(refuse)?;
        }
        Ok(Hash(bytes))
    }
}

/// The hash of a manifest's head: the identity of a version's content.
///
/// Unlike a block's hash it is always the plain BLAKE3, never the zero shorthand.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Root(Hash);

impl Root {
    pub fn of(head: &[u8]) -> Root {
        Root(Hash(*blake3::hash(head).as_bytes()))
    }

    pub const fn from_bytes(bytes: [u8; 32]) -> Root {
        Root(Hash(bytes))
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// The first 12 hexadecimal digits, for people.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Root {
    type Err = HashTextError;

    fn from_str(text: &str) -> Result<Root, HashTextError> {
        text.parse().map(Root)
    }
}

/// Consecutive blocks of one file of one version, fetched together. Never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Run {
    pub root: Root,
    pub file: FileIndex,
    /// The first block's number.
    pub first: u64,
    /// How many blocks, at least 1.
    pub count: u32,
}

impl Run {
    /// The number of the block after the last.
    pub fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }

    pub fn blocks(&self) -> std::ops::Range<u64> {
        self.first..self.end()
    }
}

/// The bytes of one block that were compared with the hash its manifest names.
///
/// Nothing else may reach a reader or the disk: the only way to get one is [`VerifiedBlock::check`].
#[derive(Clone, PartialEq, Eq)]
pub struct VerifiedBlock {
    index: u64,
    bytes: Bytes,
}

/// A block whose bytes are not the ones its manifest names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("block {index} has hash {found}, its manifest says {expected}")]
pub struct HashMismatch {
    pub index: u64,
    pub expected: Hash,
    pub found: Hash,
}

impl VerifiedBlock {
    /// Takes `bytes` as block `index` if they have the hash `expected`.
    pub fn check(index: u64, bytes: Bytes, expected: &Hash) -> Result<VerifiedBlock, HashMismatch> {
        let found = Hash::of(&bytes);
        if found == *expected {
            Ok(VerifiedBlock { index, bytes })
        } else {
            Err(HashMismatch { index, expected: *expected, found })
        }
    }

    /// The block's number in its file.
    pub fn index(&self) -> u64 {
        self.index
    }

    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }
}

impl fmt::Debug for VerifiedBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifiedBlock({}, {} bytes)", self.index, self.bytes.len())
    }
}

/// Serialises a type as the text that its `Display` writes and its `FromStr` reads.
macro_rules! serde_as_text {
    ($type:ty) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use serde_as_text;

serde_as_text!(Hash);
serde_as_text!(Root);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_block_is_taken_only_with_its_hash() {
        let bytes = Bytes::from_static(b"boot sector");
        let hash = Hash::of(&bytes);
        assert_eq!(VerifiedBlock::check(3, bytes.clone(), &hash).unwrap().index(), 3);
        let wrong = VerifiedBlock::check(3, Bytes::from_static(b"boot sectos"), &hash).unwrap_err();
        assert_eq!((wrong.index, wrong.expected), (3, hash));
        assert!(VerifiedBlock::check(0, Bytes::from(vec![0; 65536]), &Hash::ZERO).is_ok());
        assert!(VerifiedBlock::check(0, Bytes::from_static(b"\0\x01"), &Hash::ZERO).is_err());
    }

    #[test]
    fn the_last_block_is_short() {
        let check = |bytes, index, expected| assert_eq!(block_len(bytes, index), expected, "{bytes} {index}");
        check(0, 0, 0);
        check(1, 0, 1);
        check(65536, 0, 65536);
        check(65537, 1, 1);
        check(65537, 2, 0);
        check(u64::MAX, u64::MAX, 0);
    }

    proptest! {
        #[test]
        fn hash_text_round_trips(bytes: [u8; 32]) {
            let hash = Hash::from_bytes(bytes);
            prop_assert_eq!(hash.to_string().parse::<Hash>().unwrap(), hash);
        }

        #[test]
        fn other_text_is_refused(text in "[0-9a-fA-FgG]{0,70}") {
            let valid = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            prop_assert_eq!(text.parse::<Hash>().is_ok(), valid);
        }

        #[test]
        fn zero_is_found_wherever_the_other_byte_is(len in 0usize..300, at in 0usize..300) {
            let mut bytes = vec![0; len];
            prop_assert!(is_zero(&bytes));
            if at < len {
                bytes[at] = 0x80;
                prop_assert!(!is_zero(&bytes));
            }
        }
    }
}
