//! A boot under way: what it reads is noted, and what it will read is fetched ahead of it.
//!
//! A boot that is known is fetched in its order as soon as it begins. Of one that is not, what lies beside the
//! blocks that it read is fetched while the line has nothing better to do.

mod around;
mod recorder;
mod ride;

pub(crate) use recorder::Recorder;
