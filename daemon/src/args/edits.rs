//! Working copies, pruning and nodes, as they are typed.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use icbd_image::{ClientName, ImageName};

use crate::replicas::Via;

#[derive(Debug, Args)]
pub(crate) struct EditArgs {
    pub image: ImageName,
    /// On this workstation's disk, which is kept until it is saved (on the cache server that it boots from)
    #[arg(long, value_name = "PC")]
    pub client: Option<ClientName>,
    /// Why, for the audit log
    #[arg(short, long, default_value = "", value_name = "TEXT", hide_default_value = true, value_parser = super::moves::why)]
    pub message: String,
}

#[derive(Debug, Args)]
pub(crate) struct DiscardArgs {
    pub image: ImageName,
    /// Why, for the audit log
    #[arg(short, long, default_value = "", value_name = "TEXT", hide_default_value = true, value_parser = super::moves::why)]
    pub message: String,
}

#[derive(Debug, Args)]
pub(crate) struct SaveArgs {
    pub image: ImageName,
    /// What this workstation wrote, instead of the working copy
    #[arg(long, value_name = "PC", requires = "from")]
    pub client: Option<ClientName>,
    /// The cache server that has its disk
    #[arg(long, value_name = "URL", requires = "client")]
    pub from: Option<String>,
    /// Through SSH, as whoever runs this: ssh:[USER@]HOST[:PORT]. URL is then the cache server's as HOST knows it, such as
    /// http://127.0.0.1:7071
    #[arg(long, value_name = "ssh:HOST", requires = "client")]
    pub via: Option<Via>,
    /// Also if there is a newer version than the one that it wrote over, of which nothing will be in this one
    #[arg(long, requires = "client")]
    pub force: bool,
    /// A note about the version
    #[arg(short, long, value_name = "TEXT", required_unless_present = "client")]
    pub message: Option<String>,
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
