//! `icbd store` as it is typed.

use std::path::PathBuf;

use clap::Subcommand;
use icbd_image::VersionId;

use crate::settings::BitRate;

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
    /// Read everything that is kept here again, compare it with the manifests, and mend what is spoilt
    ///
    /// A cache fetches what is spoilt from its sources. A master names it, or puts the version together anew from what is
    /// right of it and what another node holds (--from).
    Scrub {
        /// At most so fast, for example 50MB/s [default: as fast as the disk gives]
        #[arg(long, value_name = "RATE")]
        limit: Option<BitRate>,
        /// A cache server (its serve.listen) or a master that holds what is damaged on this master; may be given again
        #[arg(long, value_name = "URL")]
        from: Vec<String>,
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
