//! `icbd prefetch` as it is typed. What is no rate, day, zone or time is refused here, before any daemon is asked.

use clap::{Args, Subcommand};
use icbd_cache::{Weekdays, Zone};
use icbd_image::ImageRef;

use crate::near;
use crate::orders::When;
use crate::settings::{BitRate, OFF};

#[derive(Debug, Subcommand)]
pub(crate) enum PrefetchCommand {
    /// Order something to be here before it is read
    Add(AddArgs),
    /// List the orders: how far they are, and whether they keep what was promised
    List {
        /// Those that are done or cancelled, too
        #[arg(long)]
        ended: bool,
    },
    /// Say what an order fetches, from where, how long that takes, and why it waits
    Explain {
        /// An order's number, or IMAGE[@N] for what an order would do
        #[arg(value_name = "ID|IMAGE[@N]")]
        subject: String,
        #[command(flatten)]
        what: WhatArgs,
    },
    /// Change an order, also while it runs
    Set {
        #[arg(value_name = "ID")]
        order: u64,
        #[command(flatten)]
        terms: TermArgs,
    },
    /// Stop an order until it is resumed
    Pause {
        #[arg(value_name = "ID")]
        order: u64,
    },
    /// Let a paused order go on
    Resume {
        #[arg(value_name = "ID")]
        order: u64,
    },
    /// End an order; what it fetched stays
    Cancel {
        #[arg(value_name = "ID")]
        order: u64,
    },
}

#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// One version; IMAGE alone is a standing order for its deployed and its newest ready version
    #[arg(value_name = "IMAGE[@N]")]
    pub image: ImageRef,
    #[command(flatten)]
    pub what: WhatArgs,
    #[command(flatten)]
    pub terms: TermArgs,
    /// Wait until it is done, and show how far it is; exit code 5 if it is not in time
    #[arg(long)]
    pub wait: bool,
}

#[derive(Debug, Clone, Args)]
#[group(multiple = false)]
pub(crate) struct WhatArgs {
    /// What a boot reads
    #[arg(long)]
    pub boot: bool,
    /// Every block
    #[arg(long)]
    pub all: bool,
    /// One file, by its path in the version
    #[arg(long, value_name = "PATH")]
    pub file: Option<String>,
}

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct TermArgs {
    /// Ready by this time: HH:MM, or 2026-03-01T08:45 with or without an offset; "off" for at once
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub by: Option<String>,
    /// Every week on these days, such as mon-fri,sun
    #[arg(long, value_name = "DAYS", value_parser = days)]
    pub days: Option<String>,
    /// The time zone of --by, such as Europe/Madrid [default: the machine's]
    #[arg(long, value_name = "ZONE", value_parser = zone)]
    pub zone: Option<String>,
    /// Never faster than this, such as 50mbit or 6MB/s; "off" for no limit
    #[arg(long, value_name = "RATE", value_parser = limit, allow_hyphen_values = true)]
    pub limit: Option<String>,
    /// Who goes first [default: normal]
    #[arg(long, value_parser = ["low", "normal", "high"])]
    pub priority: Option<String>,
}

fn time(text: &str) -> Result<String, String> {
    let is_known = text == OFF || text.parse::<When>().is_ok();
    let message = "not a time such as 08:45 or 2026-03-01T08:45+01:00";
    if is_known { Ok(text.to_owned()) } else { Err(message.to_owned()) }
}

fn days(text: &str) -> Result<String, String> {
    text.parse::<Weekdays>().map(|days| days.to_string()).map_err(|error| error.to_string())
}

fn zone(text: &str) -> Result<String, String> {
    Zone::named(text).map(|zone| zone.name().to_owned()).map_err(|error| {
        let known = jiff::tz::db();
        let names: Vec<String> = known.available().map(|name| name.to_string()).collect();
        format!("{error}{}", near::hint(text, names.iter().map(String::as_str)))
    })
}

fn limit(text: &str) -> Result<String, String> {
    match text {
        OFF => Ok(text.to_owned()),
        _ => text.parse::<BitRate>().map(|_| text.to_owned()).map_err(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::args::Args;

    #[test]
    fn what_is_no_term_is_named_with_what_is() {
        let check = |terms: &[&str], says: &str| {
            let line = [&["icbd", "prefetch", "add", "lab", "--all"], terms].concat();
            let message = Args::try_parse_from(line).unwrap_err().to_string();
            assert!(message.contains(says), "{terms:?}: {message}");
        };
        check(&["--limit", "0"], "is not a rate above zero");
        check(&["--limit", "0mbit"], "is not a rate above zero");
        check(&["--limit", "50"], "such as \"50mbit\"");
        check(&["--by", "8.45"], "08:45");
        check(&["--by", "25:00"], "08:45");
        check(&["--days", "mon-fry"], "\"fry\" is no weekday");
        check(&["--zone", "Europe/Madird"], "did you mean \"Europe/Madrid\"");
        check(&["--priority", "urgent"], "normal");
        check(&["--boot"], "cannot be used with");
        let ok =
            ["icbd", "prefetch", "add", "lab", "--boot", "--by", "08:45", "--days", "mon-fri", "--limit", "50mbit"];
        Args::try_parse_from(ok).unwrap();
    }
}
