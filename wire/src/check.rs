//! Who compares blocks with their hashes before anybody believes them.
//!
//! The receiver always does. A master that did so too would only find sooner what its receivers find anyway, and
//! would hash every byte that leaves it. So it does when it is told that the blocks it gave before were wrong:
//! then it finds out whether its disk or the way was to blame. What it is told by is HTTP's own word for "not
//! from any cache on the way": a proxy that kept wrong bytes passes the request on.

/// Who compares the blocks of an answer with their hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Check {
    /// Only who asked.
    #[default]
    Receiver,
    /// Also who answers, before it does: an earlier answer was wrong.
    Both,
}

impl Check {
    /// The `Cache-Control` of a request that wants this; `None`: without one.
    pub fn cache_control(self) -> Option<&'static str> {
        match self {
            Check::Receiver => None,
            Check::Both => Some("no-cache"),
        }
    }

    /// What a request with these values of `Cache-Control` wants.
    pub fn asked<'a>(values: impl Iterator<Item = &'a str>) -> Check {
        let mut directives = values.flat_map(|value| value.split(',')).map(str::trim);
        match directives.any(|directive| directive.eq_ignore_ascii_case("no-cache")) {
            true => Check::Both,
            false => Check::Receiver,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_understood() {
        for check in [Check::Receiver, Check::Both] {
            assert_eq!(Check::asked(check.cache_control().into_iter()), check);
        }
        assert_eq!(Check::asked(["max-age=0, No-Cache"].into_iter()), Check::Both);
        assert_eq!(Check::asked(["max-age=0", "x-no-cache"].into_iter()), Check::Receiver);
    }
}
