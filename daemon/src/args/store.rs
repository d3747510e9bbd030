//! `icbd store` as it is typed.

use std::path::PathBuf;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Try what versions can be made of in a directory, and say what that gives and costs
    ///
    /// Makes files, subvolumes and snapshots there, sends one to itself, and removes all of them again.
    Probe {
        /// An existing directory [default: the configured store or repository]
        #[arg(value_name = "PATH")]
        path: Option<PathBuf>,
    },
}
