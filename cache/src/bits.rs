//! A row of bits that many threads read and set.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bits in 64-bit words. Setting releases and asking acquires: who sees a bit sees what it vouches for.
#[derive(Debug)]
pub(crate) struct Bits(Box<[AtomicU64]>);

impl Bits {
    pub(crate) fn zeros(words: usize) -> Bits {
        Bits((0..words).map(|_| AtomicU64::new(0)).collect())
    }

    pub(crate) fn words(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn word(&self, at: usize) -> u64 {
        self.0[at].load(Ordering::Acquire)
    }

    pub(crate) fn or_word(&self, at: usize, bits: u64) {
        self.0[at].fetch_or(bits, Ordering::AcqRel);
    }

    pub(crate) fn get(&self, bit: u64) -> bool {
        self.word((bit / 64) as usize) >> (bit % 64) & 1 == 1
    }

    pub(crate) fn set(&self, bits: Range<u64>) {
        for (at, mask) in masks(bits) {
            self.0[at].fetch_or(mask, Ordering::AcqRel);
        }
    }

    pub(crate) fn clear(&self, bits: Range<u64>) {
        for (at, mask) in masks(bits) {
            self.0[at].fetch_and(!mask, Ordering::AcqRel);
        }
    }

    /// Whether every bit of the range is set.
    pub(crate) fn all(&self, bits: Range<u64>) -> bool {
        masks(bits).all(|(at, mask)| self.word(at) & mask == mask)
    }

    /// How many bits of the range are set.
    pub(crate) fn count(&self, bits: Range<u64>) -> u64 {
        masks(bits).map(|(at, mask)| u64::from((self.word(at) & mask).count_ones())).sum()
    }
}

/// The words that a range of bits touches, each with the bits that are in the range.
pub(crate) fn masks(bits: Range<u64>) -> impl Iterator<Item = (usize, u64)> {
    let words = if bits.is_empty() { 0..0 } else { bits.start / 64..bits.end.div_ceil(64) };
    words.map(move |word| {
        let low = bits.start.saturating_sub(word * 64);
        let high = (bits.end - word * 64).min(64);
        let below = |n: u64| if n == 64 { u64::MAX } else { (1 << n) - 1 };
        (word as usize, below(high) & !below(low))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_mean_their_bits(sets in proptest::collection::vec((0u64..300, 0u64..300, any::<bool>()), 0..20),
                                  from in 0u64..300, to in 0u64..300) {
            let bits = Bits::zeros(5);
            let mut model = vec![false; 320];
            for (start, end, set) in sets {
                if start > end { continue }
                if set { bits.set(start..end) } else { bits.clear(start..end) }
                model[start as usize..end as usize].fill(set);
            }
            for (bit, expected) in (0..).zip(&model) {
                prop_assert_eq!(bits.get(bit), *expected);
            }
            if from <= to {
                let range = &model[from as usize..to as usize];
                prop_assert_eq!(bits.count(from..to), range.iter().filter(|set| **set).count() as u64);
                prop_assert_eq!(bits.all(from..to), range.iter().all(|set| *set));
            }
        }
    }
}
