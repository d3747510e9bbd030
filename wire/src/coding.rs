//! Manifests, packed as they travel: what HTTP calls the content coding `zstd` (RFC 8878).
//!
//! Blocks have frames; heads and pages have no codec of their own, and half of an image's pages may be the hashes of
//! zero blocks. Who asks says that it can unpack, as any HTTP client does.

use std::io::Read;

/// The name of the coding in HTTP's headers.
pub const CODING: &str = "zstd";

/// Less than this fits in one packet anyway.
const WORTH_BYTES: usize = 1024;

/// The same bytes, packed; `None` when that saves nothing.
pub fn pack(plain: &[u8]) -> Option<Vec<u8>> {
    let worth = plain.len() > WORTH_BYTES;
    let packed = worth.then(|| zstd::bulk::compress(plain, zstd::DEFAULT_COMPRESSION_LEVEL).ok()).flatten()?;
    (packed.len() < plain.len()).then_some(packed)
}

/// What was packed; `None` when that was nothing of at most `bytes_max` bytes. No more than these are ever unpacked.
pub fn unpack(packed: &[u8], bytes_max: usize) -> Option<Vec<u8>> {
    let mut plain = Vec::new();
    let reader = zstd::stream::read::Decoder::new(packed).ok()?;
    reader.take(bytes_max as u64 + 1).read_to_end(&mut plain).ok()?;
    (plain.len() <= bytes_max).then_some(plain)
}

/// Whether a request with these values of `Accept-Encoding` takes what is packed.
pub fn is_accepted<'a>(values: impl Iterator<Item = &'a str>) -> bool {
    let mut codings = values.flat_map(|value| value.split(',')).map(|coding| coding.trim().split(';'));
    codings.any(|mut coding| {
        let named = coding.next().is_some_and(|name| name.trim().eq_ignore_ascii_case(CODING));
        named && coding.all(|weight| weight.trim().trim_start_matches("q=").parse() != Ok(0.0))
    })
}

#[cfg(test)]
mod tests {
    use icbd_image::Hash;

    use super::*;

    #[test]
    fn what_was_packed_comes_back() {
        let plain = b"hashes of zero blocks ".repeat(1000);
        let packed = pack(&plain).unwrap();
        assert!(packed.len() < plain.len() / 100);
        assert_eq!(unpack(&packed, plain.len()).as_deref(), Some(plain.as_slice()));
    }

    #[test]
    fn what_does_not_shrink_stays_as_it_is() {
        let noise: Vec<u8> = (0..2000u32).flat_map(|n| *Hash::of(&n.to_le_bytes()).as_bytes()).collect();
        assert_eq!(pack(&noise), None);
        assert_eq!(pack(&[0; 100]), None);
    }

    #[test]
    fn more_than_may_come_and_nonsense_are_refused() {
        let bomb = pack(&vec![0; 64 << 20]).unwrap();
        assert_eq!(unpack(&bomb, 65536), None);
        assert_eq!(unpack(&bomb[..bomb.len() - 1], 64 << 20), None);
        assert_eq!(unpack(b"no frame", 65536), None);
    }

    #[test]
    fn only_who_names_it_is_sent_it() {
        let check = |value: &str, expected| assert_eq!(is_accepted([value].into_iter()), expected, "{value}");
        check("zstd", true);
        check("gzip, br;q=0.5, ZSTD;q=0.8", true);
        check("gzip", false);
        check("zstd;q=0", false);
        check("*", false);
        assert!(!is_accepted(std::iter::empty()));
    }
}
