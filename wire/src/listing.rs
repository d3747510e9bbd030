//! The listing as JSON: what `/v1/images` answers.
//!
//! The statement of a version is the truth about it; `number` and `root` stand beside it for people and
//! scripts, and must agree with it. Unknown fields are ignored, so that a newer master may add some.
//! Signatures are not checked here, `icbd_image::Trust` does that.

use std::borrow::Cow;
use std::collections::HashSet;

use icbd_image::{
    ImageName, ImageRecord, Listing, RepositoryId, Root, Serial, SignedStatement, Timestamp, VersionId, VersionNumber,
    VersionRecord, VersionState,
};
use serde::{Deserialize, Serialize};

/// The longest listing that a fetcher should take: about 100,000 versions at half a kilobyte.
pub const LISTING_BYTES_MAX: usize = 64 << 20;

const FORMAT: u32 = 1;

/// Why bytes are not a listing.
#[derive(Debug, thiserror::Error)]
pub enum ListingError {
    #[error("the listing is not the JSON that icbd expects: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the listing has format {0}; this icbd reads format {FORMAT}")]
    Format(u32),
    #[error("the listing names {0} twice or not in order")]
    Order(String),
    #[error("the listing gives the serial {serial} of {name} twice")]
    Serial { name: String, serial: Serial },
    #[error("the listing shows as {shown} the statement of {found}")]
    Other { shown: VersionId, found: VersionId },
    #[error("the listing shows {shown} with root {root}, its statement says {found}")]
    OtherRoot { shown: VersionId, root: Root, found: Root },
    #[error("the listing is of repository {ours}, the statement of {shown} is of {found}")]
    OtherRepository { shown: VersionId, ours: RepositoryId, found: RepositoryId },
    #[error("the listing says that {0} is deployed and does not have it")]
    Deployed(VersionId),
    #[error("the listing says that {0} is the fallback and does not have it")]
    Fallback(VersionId),
    #[error("the listing gives {0} a time that is not one")]
    Time(ImageName),
}

impl ListingError {
    /// The same bytes will never be a listing.
    pub fn is_permanent(&self) -> bool {
        true
    }
}

#[derive(Serialize, Deserialize)]
struct JsonListing<'a> {
    format: u32,
    repository: RepositoryId,
    images: Vec<JsonImage<'a>>,
}

/// Only its format, of a listing that may be of another one.
#[derive(Deserialize)]
struct JsonFormat {
    format: u32,
}

#[derive(Serialize, Deserialize)]
struct JsonImage<'a> {
    name: Cow<'a, ImageName>,
    serial: Serial,
    changed: Timestamp,
    deployed: Option<VersionNumber>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fallback: Option<VersionNumber>,
    versions: Vec<JsonVersion<'a>>,
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    removed: Cow<'a, [VersionNumber]>,
}

#[derive(Serialize, Deserialize)]
struct JsonVersion<'a> {
    number: VersionNumber,
    state: VersionState,
    root: Root,
    data_bytes: u64,
    note: Cow<'a, str>,
    statement: Cow<'a, SignedStatement>,
}

/// Writes `listing`, whose images and versions are in order.
pub fn encode(listing: &Listing) -> Vec<u8> {
    let images = listing.images.iter().map(|image| JsonImage {
        name: Cow::Borrowed(&image.name),
        serial: image.serial,
        changed: image.changed,
        deployed: image.deployed,
        fallback: image.fallback,
        versions: image.versions.iter().map(JsonVersion::from).collect(),
        removed: Cow::Borrowed(&image.removed),
    });
    to_json(&JsonListing { format: FORMAT, repository: listing.repository, images: images.collect() })
}

/// Writes one version, as it stands in the listing.
pub fn encode_version(version: &VersionRecord) -> Vec<u8> {
    to_json(&JsonVersion::from(version))
}

/// Reads a listing. How many bytes to read at most, [`LISTING_BYTES_MAX`], is the caller's to hold.
pub fn decode(bytes: &[u8]) -> Result<Listing, ListingError> {
    let JsonFormat { format } = serde_json::from_slice(bytes)?;
    if format != FORMAT {
        return Err(ListingError::Format(format));
    }
    let json: JsonListing<'_> = serde_json::from_slice(bytes)?;
    let mut images: Vec<ImageRecord> = Vec::new();
    let mut serials = HashSet::new();
    for image in json.images {
        if images.last().is_some_and(|previous| previous.name >= *image.name) {
            return Err(ListingError::Order(image.name.to_string()));
        }
        let image = check_image(image, json.repository)?;
        let versions = image.versions.iter().map(|version| (version.serial(), version));
        if !serials.insert(image.serial) {
            return Err(ListingError::Serial { name: image.name.to_string(), serial: image.serial });
        }
        for (serial, version) in versions {
            if !serials.insert(serial) {
                let name = version.statement.statement().version().to_string();
                return Err(ListingError::Serial { name, serial });
            }
        }
        images.push(image);
    }
    Ok(Listing { repository: json.repository, images })
}

fn check_image(json: JsonImage<'_>, repository: RepositoryId) -> Result<ImageRecord, ListingError> {
    let name = json.name.into_owned();
    if json.changed.nanoseconds >= 1_000_000_000 {
        return Err(ListingError::Time(name));
    }
    let mut versions: Vec<VersionRecord> = Vec::new();
    for version in json.versions {
        let shown = VersionId { image: name.clone(), number: version.number };
        if versions.last().is_some_and(|previous| previous.number() >= version.number) {
            return Err(ListingError::Order(shown.to_string()));
        }
        versions.push(check_version(version, shown, repository)?);
    }
    let removed = json.removed.into_owned();
    let (serial, changed, deployed, fallback) = (json.serial, json.changed, json.deployed, json.fallback);
    let image = ImageRecord { name, serial, changed, deployed, fallback, versions, removed };
    let missing = |number: &VersionNumber| image.version(*number).is_none();
    let named = |number| VersionId { image: image.name.clone(), number };
    if let Some(number) = image.deployed.filter(missing) {
        return Err(ListingError::Deployed(named(number)));
    }
    if let Some(number) = image.fallback.filter(missing) {
        return Err(ListingError::Fallback(named(number)));
    }
    let is_twice = |number: &&VersionNumber| !missing(number);
    if let Some(number) = image.removed.iter().find(is_twice).copied() {
        return Err(ListingError::Order(named(number).to_string()));
    }
    if let Some(pair) = image.removed.windows(2).find(|pair| pair[0] >= pair[1]) {
        return Err(ListingError::Order(named(pair[1]).to_string()));
    }
    Ok(image)
}

fn check_version(json: JsonVersion<'_>, shown: VersionId, ours: RepositoryId) -> Result<VersionRecord, ListingError> {
    let statement = json.statement.statement();
    if statement.version() != shown {
        return Err(ListingError::Other { shown, found: statement.version() });
    }
    if statement.root != json.root {
        return Err(ListingError::OtherRoot { shown, root: json.root, found: statement.root });
    }
    if statement.repository != ours {
        return Err(ListingError::OtherRepository { shown, ours, found: statement.repository });
    }
    Ok(VersionRecord {
        state: json.state,
        data_bytes: json.data_bytes,
        note: json.note.into_owned(),
        statement: json.statement.into_owned(),
    })
}

impl<'a> From<&'a VersionRecord> for JsonVersion<'a> {
    fn from(version: &'a VersionRecord) -> JsonVersion<'a> {
        JsonVersion {
            number: version.number(),
            state: version.state,
            root: version.root(),
            data_bytes: version.data_bytes,
            note: Cow::Borrowed(&version.note),
            statement: Cow::Borrowed(&version.statement),
        }
    }
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("nothing in a listing can fail to be written")
}

#[cfg(test)]
mod tests;
