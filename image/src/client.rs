//! Names of workstations.

use std::fmt;
use std::str::FromStr;

use crate::block::serde_as_text;

/// The name of a workstation: `pc-17`.
///
/// 1 to 63 characters out of `a-z 0-9 -`, the first and last a letter or digit, one of them a letter: a name is
/// also a part of an iSCSI target's name, behind the number of a version, and that is how the two are told apart.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientName(Box<str>);

/// Why a text is not the name of a workstation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no name of a workstation: 1 to {max} characters out of a-z, 0-9 and '-', with a letter, no '-' at an end{hint}",
    max = ClientName::BYTES_MAX,
    hint = small(.0)
)]
pub struct ClientNameError(String);

/// Names are often written in capitals.
fn small(text: &str) -> String {
    let small = text.to_ascii_lowercase();
    if small.parse::<ClientName>().is_ok() { format!("; did you mean {small:?}?") } else { String::new() }
}

impl ClientName {
    /// A DNS label's length.
    pub const BYTES_MAX: usize = 63;

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClientName {
    type Err = ClientNameError;

    fn from_str(text: &str) -> Result<ClientName, ClientNameError> {
        let is_allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        let is_good = (1..=ClientName::BYTES_MAX).contains(&text.len())
            && text.bytes().all(is_allowed)
            && text.bytes().any(|byte| byte.is_ascii_lowercase())
            && !text.starts_with('-')
            && !text.ends_with('-');
        let shown = || text.chars().take(ClientName::BYTES_MAX).collect();
        is_good.then(|| ClientName(text.into())).ok_or_else(|| ClientNameError(shown()))
    }
}

impl fmt::Display for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

serde_as_text!(ClientName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_stand_in_a_targets_name() {
        for name in ["pc-17", "a", "1a", &"x".repeat(63)] {
            assert_eq!(name.parse::<ClientName>().unwrap().as_str(), name);
        }
        for name in ["", "17", "pc.17", "PC-17", "-pc", "pc-", "pc_17", "pc 17", &"x".repeat(64)] {
            assert!(name.parse::<ClientName>().is_err(), "{name:?}");
        }
        assert!("PC-17".parse::<ClientName>().unwrap_err().to_string().ends_with("; did you mean \"pc-17\"?"));
    }
}
