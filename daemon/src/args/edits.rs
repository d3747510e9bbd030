//! Working copies, pruning and nodes, as they are typed.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use icbd_image::ImageName;

#[derive(Debug, Args)]
pub(crate) struct EditArgs {
    pub image: ImageName,
    /// Why, for the audit log
    #[arg(short, long, default_value = "", value_name = "TEXT", hide_default_value = true, value_parser = super::moves::why)]
    pub message: String,
}

#[derive(Debug, Args)]
pub(crate) struct SaveArgs {
    pub image: ImageName,
    /// A note about the version
    #[arg(short, long, value_name = "TEXT")]
    pub message: String,
    /// Sign with this secret key [default: the configuration's sign.key]
    #[arg(long, value_name = "KEY")]
    pub sign: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Do it
    #[arg(long)]
    pub yes: bool,
    /// Count this node as using nothing, whatever it said last: its name, or its id; may be repeated
    #[arg(long, value_name = "NODE")]
    pub force: Vec<String>,
    /// Why, for the audit log
    #[arg(short, long, default_value = "", value_name = "TEXT", hide_default_value = true, value_parser = super::moves::why)]
    pub message: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// List them, when they were last seen, and what they use
    List,
    /// Forget one that will not come back, and let go of what it used
    Remove {
        /// Its name, or its id
        node: String,
        /// Also one that was heard of just now
        #[arg(long)]
        force: bool,
        /// Why, for the audit log
        #[arg(short, long, default_value = "", value_name = "TEXT", hide_default_value = true, value_parser = super::moves::why)]
        message: String,
    },
}
