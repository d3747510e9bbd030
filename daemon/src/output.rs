//! What people and scripts see: results on stdout, talk on stderr.

mod human;
mod progress;
mod table;

use std::io::Write;

use serde::Serialize;

pub(crate) use human::{bytes, now, percent, seconds, time};
pub(crate) use progress::{Progress, ProgressBar};
pub(crate) use table::table;

/// How a command speaks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Talk {
    pub json: bool,
    pub quiet: bool,
}

impl Talk {
    /// Prints a result: `value` as JSON where that was asked for, else what `human` makes of it.
    pub(crate) fn result<T: Serialize>(self, value: &T, human: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
        let text = if self.json { serde_json::to_string_pretty(value)? } else { human(value) };
        let text = text.trim_end();
        if text.is_empty() {
            return Ok(());
        }
        let mut out = std::io::stdout().lock();
        match writeln!(out, "{text}").and_then(|()| out.flush()) {
            // Whoever read the beginning (`icbd image list | head`) has what they wanted.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            written => Ok(written?),
        }
    }

    /// Says something on stderr that is no result.
    pub(crate) fn say(self, text: impl std::fmt::Display) {
        if !self.quiet {
            eprintln!("{text}");
        }
    }
}
