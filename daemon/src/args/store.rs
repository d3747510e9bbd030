//! `icbd store` as it is typed.

use std::path::PathBuf;

use clap::Subcommand;
use icbd_image::VersionId;

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Show what may go from a cache's store and why the rest stays; with --yes, let it go (on a cache)
    ///
    /// What went is fetched again when somebody reads it. The deployed version, the fallback, what is pinned, open or
    /// being fetched stays. Without this command the same is done, as far as needed, when less than store.min_free is left.
    Evict {
        /// These and no others [default: all that may go, the one used longest ago first]
        #[arg(value_name = "IMAGE@N")]
        versions: Vec<VersionId>,
        /// Do it
        #[arg(long)]
        yes: bool,
        /// Why, for the audit log
        #[arg(short, long, default_value = "", value_name = "TEXT", hide_default_value = true, value_parser = super::moves::why)]
        message: String,
    },
    /// Try what versions can be made of in a directory, and say what that gives and costs
    ///
    /// Makes files, subvolumes and snapshots there, sends one to itself, and removes all of them again.
    Probe {
        /// An existing directory [default: the configured store or repository]
        #[arg(value_name = "PATH")]
        path: Option<PathBuf>,
    },
}
