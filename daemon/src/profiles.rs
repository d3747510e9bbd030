//! Boot profiles as they travel over the control socket and are shown.

use std::collections::BTreeSet;
use std::fmt::Write;

use icbd_image::{ImageRef, Origin, Profile, Root, VersionId};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What is known of boots of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProfileReport {
    pub version: VersionId,
    pub root: Root,
    /// Of the boot set: what a prefetch would fetch before a boot.
    pub runs: u64,
    pub bytes: u64,
    /// Boots of this version that were observed.
    pub boots: usize,
    /// Boots of other versions, by path and position.
    pub carried: usize,
    /// Cache servers at which they were observed.
    pub sites: usize,
    /// When the first and the last of them began, in seconds since 1970.
    pub first_seen: u64,
    pub last_seen: u64,
    pub files: Vec<FileReport>,
}

/// The part of the boot set that is in one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileReport {
    pub path: String,
    pub runs: u64,
    pub bytes: u64,
}

impl ProfileReport {
    /// About `profile`, which knows something, and its boot set by file.
    pub(crate) fn new(version: VersionId, profile: &Profile, files: Vec<FileReport>) -> ProfileReport {
        let boots = profile.own_count();
        let starts = || profile.observations().map(|seen| seen.started());
        ProfileReport {
            version,
            root: profile.root(),
            runs: files.iter().map(|file| file.runs).sum(),
            bytes: files.iter().map(|file| file.bytes).sum(),
            boots,
            carried: profile.observations().filter(|seen| seen.origin() == Origin::Carried).count(),
            sites: profile.observations().map(|seen| seen.site()).collect::<BTreeSet<_>>().len(),
            first_seen: starts().min().unwrap_or_default(),
            last_seen: starts().max().unwrap_or_default(),
            files,
        }
    }
}

/// The body of an import.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ImportBody {
    pub profile: Bytes,
    /// `None`: the version with the profile's root.
    pub version: Option<ImageRef>,
}

/// What an import did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ImportResult {
    pub version: VersionId,
    /// The version whose boots were observed, where that is another one.
    pub learned_on: Option<VersionId>,
    /// What a boot of the version reads, by all that is known now; `None` while its manifest is out of reach.
    pub boot_set_bytes: Option<u64>,
    /// Boots that were brought.
    pub boots: usize,
    /// Whether anything of it was not known yet.
    pub is_new: bool,
}

/// Bytes, in JSON as hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(self.0.len() * 2);
        for byte in &self.0 {
            let _ = write!(text, "{byte:02x}");
        }
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digit = |digit: u8| char::from(digit).to_digit(16).map(|digit| digit as u8);
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect::<Option<_>>();
        let bytes = bytes.filter(|_| rest.is_empty());
        bytes.map(Bytes).ok_or_else(|| serde::de::Error::custom("not hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_travel_as_digits() {
        let bytes = Bytes((0..=255).collect());
        let json = serde_json::to_string(&bytes).unwrap();
        assert_eq!((json.len(), serde_json::from_str::<Bytes>(&json).unwrap()), (514, bytes));
        for wrong in ["\"abc\"", "\"zz\"", "3"] {
            assert!(serde_json::from_str::<Bytes>(wrong).is_err(), "{wrong}");
        }
    }
}
