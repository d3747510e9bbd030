//! How much of a version is on a cache server, as reports say it: a word for programs, and one for people.

use icbd_wire::Readiness;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub(crate) fn serialize<S: Serializer>(readiness: &Option<Readiness>, serializer: S) -> Result<S::Ok, S::Error> {
    readiness.map(Readiness::as_str).serialize(serializer)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Readiness>, D::Error> {
    let word = Option::<String>::deserialize(deserializer)?;
    word.map(|word| word.parse().map_err(de::Error::custom)).transpose()
}

/// As `status` says it.
pub(crate) fn shown(readiness: Option<Readiness>) -> &'static str {
    match readiness {
        None => "no",
        Some(Readiness::Boot) => "boot set",
        Some(Readiness::Complete) => "complete",
        Some(Readiness::Sealed) => "sealed",
    }
}
