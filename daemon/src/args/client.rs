//! `icbd client` as it is typed.

use std::path::PathBuf;

use clap::Subcommand;
use icbd_export::Claims;

#[derive(Debug, Subcommand)]
pub(crate) enum ClientCommand {
    /// Have this be the list of workstations: who is not on it gets no clone when it boots
    ///
    /// The file is CSV, as spreadsheets save it, in UTF-8 and separated by commas, semicolons or tabs. Its first line names the
    /// columns, in any order: name, mac (several of one workstation with spaces between), uuid, lab, boots (what it boots if nobody
    /// chooses, such as debian-lab, or debian-lab@4 to try that version). A workstation has a name, and a MAC address or a UUID. The
    /// list takes the place of the one before; what is wrong with it is said with line and
    /// column, and nothing is changed then. Who runs goes on, whatever is imported.
    Import {
        /// The file; `-`: standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Only show what it would change
        #[arg(long)]
        dry_run: bool,
        /// Why, for the audit log
        #[arg(short, long, default_value = "", value_name = "TEXT", hide_default_value = true, value_parser = super::moves::why)]
        message: String,
    },
    /// Show all workstations, what they use and what they have written
    List,
    /// Show what is known of a workstation
    Show {
        /// Its name, MAC or UUID
        client: Claims,
    },
    /// Show when workstations booted what, and how far those came that did not get to the end
    Boots {
        /// Only this one: its name, MAC or UUID
        client: Option<Claims>,
    },
    /// Wake a workstation that is switched off, by Wake-on-LAN
    Wake {
        /// Its name, MAC or UUID
        #[arg(required = true)]
        clients: Vec<Claims>,
    },
    /// Say what a workstation would get at its next boot, and why
    Explain {
        /// Its name, MAC or UUID
        client: Claims,
    },
}
