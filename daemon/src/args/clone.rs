//! `icbd clone` as it is typed.

use clap::{Args, Subcommand};
use icbd_image::{ClientName, ImageRef};

use crate::clones::CloneChange;

#[derive(Debug, Subcommand)]
pub(crate) enum CloneCommand {
    /// Show what workstations have written over the versions that they use
    List,
    /// Have a workstation find the version as it was published; refused while it runs
    Reset {
        #[command(flatten)]
        clone: CloneArgs,
        /// Drop what clone.hook made for it, too; it is made anew at the next boot
        #[arg(long)]
        personal: bool,
    },
    /// Never reset what a workstation wrote, also when it boots
    Keep {
        #[command(flatten)]
        clone: CloneArgs,
        /// Have it be reset at the next boot again
        #[arg(long)]
        no: bool,
    },
    /// Delete what a workstation wrote; refused while it runs
    Remove(CloneArgs),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct CloneArgs {
    /// The workstation
    pub client: ClientName,
    /// The version; without @N, the only one of the image that it has written over
    #[arg(value_name = "IMAGE[@N]")]
    pub version: ImageRef,
    /// Why, for the audit log
    #[arg(short, long, default_value = "", value_name = "TEXT", hide_default_value = true, value_parser = super::moves::why)]
    pub message: String,
}

impl CloneCommand {
    /// What is to be done with which; `None`: show them.
    pub(crate) fn change(self) -> Option<(CloneChange, CloneArgs)> {
        match self {
            CloneCommand::List => None,
            CloneCommand::Reset { clone, personal: false } => Some((CloneChange::Reset, clone)),
            CloneCommand::Reset { clone, personal: true } => Some((CloneChange::ResetAll, clone)),
            CloneCommand::Keep { clone, no: false } => Some((CloneChange::Keep, clone)),
            CloneCommand::Keep { clone, no: true } => Some((CloneChange::LetGo, clone)),
            CloneCommand::Remove(clone) => Some((CloneChange::Remove, clone)),
        }
    }
}
