//! Names of images and numbers of versions, as people write them: `win11-lab`, `win11-lab@7`.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use crate::block::serde_as_text;

/// The name of an image.
///
/// 1 to 63 characters out of `a-z 0-9 . _ -`, the first and last a letter or digit, no two dots in a
/// row: a name is also a folder, part of a URL and part of an iSCSI target's name, where case or
/// other characters would be lost. A few words are kept for the mount itself.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageName(Box<str>);

/// Names that would be mistaken for something else where an image name stands.
const RESERVED: [&str; 2] = ["current", "lost+found"];

/// Why a text is not a name, a version number or `IMAGE@N`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("an image name must not be empty")]
    Empty,
    #[error("an image name has at most {max} characters; {start:?}… has {bytes}", max = ImageName::BYTES_MAX)]
    Long { start: String, bytes: usize },
    #[error("image name {0:?} contains {1:?}; use a-z, 0-9, '.', '_' and '-'")]
    Character(String, char),
    #[error("image name {0:?} must begin and end with a letter or digit and have no '..'")]
    Shape(String),
    #[error("{0:?} is a reserved word; choose another image name")]
    Reserved(String),
    #[error("{0:?} is not a version number; versions are numbered 1, 2, 3 …")]
    Number(String),
    #[error("{0:?} names no version; write IMAGE@N, for example {0}@1")]
    NoVersion(String),
}

impl ImageName {
    /// A DNS label's length, and short enough for an iSCSI name with a client behind it.
    pub const BYTES_MAX: usize = 63;

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ImageName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<ImageName, NameError> {
        let shown = || text.chars().take(ImageName::BYTES_MAX).collect::<String>();
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if let Some(bad) = text.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '.' | '_' | '-')) {
            return Err(NameError::Character(shown(), bad));
        }
        if text.len() > ImageName::BYTES_MAX {
            return Err(NameError::Long { start: shown(), bytes: text.len() });
        }
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        if !edge(text.chars().next()) || !edge(text.chars().next_back()) || text.contains("..") {
            return Err(NameError::Shape(shown()));
        }
        if RESERVED.contains(&text) {
            return Err(NameError::Reserved(shown()));
        }
        Ok(ImageName(text.into()))
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The number of a version within its image: 1, 2, 3 …
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VersionNumber(NonZeroU32);

impl VersionNumber {
    pub const FIRST: VersionNumber = VersionNumber(NonZeroU32::MIN);

    pub fn new(number: u32) -> Option<VersionNumber> {
        NonZeroU32::new(number).map(VersionNumber)
    }

    pub fn get(self) -> u32 {
        self.0.get()
    }

    /// The number after this one; `None` after the last that fits.
    pub fn next(self) -> Option<VersionNumber> {
        self.0.checked_add(1).map(VersionNumber)
    }
}

impl FromStr for VersionNumber {
    type Err = NameError;

    fn from_str(text: &str) -> Result<VersionNumber, NameError> {
        // One spelling a number: a path such as /icbd/x/07 must not be a second name of /icbd/x/7.
        let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
        let number = plain.then(|| text.parse().ok()).flatten().and_then(VersionNumber::new);
        number.ok_or_else(|| NameError::Number(text.chars().take(20).collect()))
    }
}

impl fmt::Display for VersionNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for VersionNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One version of one image, written `win11-lab@7`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VersionId {
    pub image: ImageName,
    pub number: VersionNumber,
}

impl FromStr for VersionId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<VersionId, NameError> {
        let ImageRef { image, number } = text.parse()?;
        match number {
            Some(number) => Ok(VersionId { image, number }),
            None => Err(NameError::NoVersion(image.to_string())),
        }
    }
}

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.image, self.number)
    }
}

impl fmt::Debug for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// An image, or one version of it: `win11-lab` (the deployed version is meant) or `win11-lab@7`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageRef {
    pub image: ImageName,
    pub number: Option<VersionNumber>,
}

impl FromStr for ImageRef {
    type Err = NameError;

    fn from_str(text: &str) -> Result<ImageRef, NameError> {
        match text.split_once('@') {
            Some((image, number)) => Ok(ImageRef { image: image.parse()?, number: Some(number.parse()?) }),
            None => Ok(ImageRef { image: text.parse()?, number: None }),
        }
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number {
            Some(number) => write!(f, "{}@{number}", self.image),
            None => write!(f, "{}", self.image),
        }
    }
}

serde_as_text!(ImageName);
serde_as_text!(VersionId);
serde_as_text!(ImageRef);

impl serde::Serialize for VersionNumber {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.get())
    }
}

impl<'de> serde::Deserialize<'de> for VersionNumber {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        NonZeroU32::deserialize(deserializer).map(VersionNumber)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_are_taken() {
        for text in ["a", "win11-lab", "debian_12.5", "0", &"x".repeat(63)] {
            assert_eq!(text.parse::<ImageName>().unwrap().as_str(), text);
        }
    }

    #[test]
    fn names_that_are_refused_and_why() {
        let check = |text: &str, says: &str| {
            let message = text.parse::<ImageName>().unwrap_err().to_string();
            assert!(message.contains(says), "{text:?}: {message}");
        };
        check("", "empty");
        check("a/b", "'/'");
        check("..", "must begin");
        check("a..b", "no '..'");
        check("-a", "must begin");
        check("a.", "begin and end");
        check("Win11", "'W'");
        check("caf\u{e9}", "'\u{e9}'");
        check("a\nb", "'\\n'");
        check("a\u{1b}[2J", "'\\u{1b}'");
        check(&"x".repeat(64), "at most 63");
        check(&"x".repeat(1 << 20), "has 1048576");
        check("current", "reserved");
    }

    #[test]
    fn version_numbers_have_one_spelling() {
        for text in ["0", "07", "+7", "-1", "", " 1", "4294967296", "1x"] {
            assert!(text.parse::<VersionNumber>().is_err(), "{text:?}");
        }
        assert_eq!("4294967295".parse::<VersionNumber>().unwrap().next(), None);
    }

    proptest! {
        #[test]
        fn version_ids_round_trip(image in "[a-z0-9]{1,63}", number in 1u32..) {
            let text = format!("{image}@{number}");
            prop_assert_eq!(text.parse::<VersionId>().unwrap().to_string(), text);
        }

        #[test]
        fn no_text_panics_and_taken_names_are_safe_as_a_folder(text in "\\PC{0,80}") {
            if let Ok(name) = text.parse::<ImageName>() {
                prop_assert!(!name.as_str().contains('/') && name.as_str() != ".." && name.as_str().is_ascii());
            }
            let _ = text.parse::<ImageRef>();
        }
    }
}
