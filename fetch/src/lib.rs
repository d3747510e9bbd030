//! Verified blocks from sources: a master, a mirror, a directory.
//!
//! A [`Source`] answers for one place; [`Sources`] is the ordered list that a cache is given. It
//! retries, fails over and back, limits, and verifies: nothing leaves it that was not compared with
//! the manifest. It keeps nothing (the cache does), and it does not wait for a source that is down:
//! it makes one round over the list and says what failed. [`Sources::pause`] is for those who wait.

mod directory;
mod error;
mod http;
mod settings;
mod source;
mod sources;
pub mod testing;

pub use directory::DirectorySource;
pub use error::{Failure, FetchError, SourceError, Wanted, WrongContent};
pub use http::{Authorities, AuthoritiesError, HttpSource, SourceUrlError, VersionStream};
pub use settings::{Settings, TimeOuts};
pub use source::{BlockRequest, BlockStream, ListingTag, ProfileAnswer, RunRequest, Source, Urgency, Way};
pub use sources::{Habits, Leave, SourceHealth, SourceState, SourcedListing, Sources};
