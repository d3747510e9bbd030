//! Names of labs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The word by which people know a room of workstations: `R2.04`, `chemistry`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LabName(String);

/// Why a text is not the name of a lab.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no name of a lab; write one word of letters, digits, '-', '_' and '.', at most {max}", max = LabName::CHARS_MAX)]
pub struct LabNameError(String);

impl LabName {
    /// It stands in tables and on command lines.
    pub const CHARS_MAX: usize = 63;

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LabName {
    type Err = LabNameError;

    fn from_str(text: &str) -> Result<LabName, LabNameError> {
        let is_allowed = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
        let is_good = (1..=LabName::CHARS_MAX).contains(&text.chars().count())
            && text.chars().all(is_allowed)
            && text.starts_with(char::is_alphanumeric);
        let shown = || text.chars().take(LabName::CHARS_MAX).collect();
        is_good.then(|| LabName(text.to_owned())).ok_or_else(|| LabNameError(shown()))
    }
}

impl fmt::Display for LabName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LabName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for LabName {
    type Error = LabNameError;

    fn try_from(text: String) -> Result<LabName, LabNameError> {
        text.parse()
    }
}

impl From<LabName> for String {
    fn from(lab: LabName) -> String {
        lab.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_is_one_word() {
        for name in ["R2.04", "chemistry", "Gebäude_3", "7", &"x".repeat(63)] {
            assert_eq!(name.parse::<LabName>().unwrap().as_str(), name);
        }
        for name in ["", "R 2", "-x", ".", "a,b", "a\u{1b}", "a\n", &"x".repeat(64)] {
            assert!(name.parse::<LabName>().is_err(), "{name:?}");
        }
    }
}
