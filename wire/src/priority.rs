//! Who waits for what, as HTTP says it (RFC 9218).
//!
//! Somebody waits for the first block of most requests, so it gets a frame of its own. Of a request that is one of many
//! nobody waits for a block: it is answered by what is packed already.

/// The header's name.
pub const HEADER: &str = "priority";

/// Its value where nobody waits for a single block: less urgent than the usual 3.
pub const BULK: &str = "u=5";

/// Whether requests with these values of the header are of that kind.
pub fn is_bulk<'a>(values: impl Iterator<Item = &'a str>) -> bool {
    let mut fields = values.flat_map(|value| value.split(',')).map(str::trim);
    fields.any(|field| field.strip_prefix("u=").and_then(|urgency| urgency.parse::<u8>().ok()).is_some_and(|u| u > 3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_less_urgent_than_usual_is_bulk() {
        for (value, expected) in
            [(BULK, true), ("i, u=7", true), ("u=3", false), ("u=0", false), ("u=x", false), ("", false)]
        {
            assert_eq!(is_bulk([value].into_iter()), expected, "{value}");
        }
        assert!(!is_bulk(std::iter::empty()));
    }
}
