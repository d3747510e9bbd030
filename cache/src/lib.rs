//! The local store: which blocks of which versions this machine holds, and how they get here.

mod error;
mod settings;
mod stubs;
mod view;

pub use error::CacheError;
pub use settings::Settings;
pub use stubs::*;
pub use view::{Object, View};
