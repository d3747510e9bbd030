//! What people and scripts see: results on stdout, talk on stderr.

mod human;
mod plain;
mod progress;
mod table;

use std::io::Write;

use serde::Serialize;

use crate::failure::Failure;

pub(crate) use human::{bit_rate, bytes, counted, now, percent, seconds, time};
pub(crate) use plain::{plain, plain_lines};
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
        let text = if self.json { json(value)? } else { plain_lines(&human(value)) };
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
            complain(&text.to_string());
        }
    }
}

/// Writes `text` to stderr. Who no longer listens there is no reason to end differently.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", plain_lines(text.trim_end()));
}

/// The same for scripts: `{"error": {"code": 3, "message": "…"}}`.
pub(crate) fn complain_json(failure: &Failure) {
    let error = serde_json::json!({ "error": { "code": failure.exit.code(), "message": failure.message } });
    let _ = writeln!(std::io::stderr().lock(), "{}", json(&error).unwrap_or_default());
}

/// JSON, which is read on terminals, too: what a terminal would obey is written as `\u009b`.
fn json(value: &impl Serialize) -> anyhow::Result<String> {
    let text = serde_json::to_string_pretty(value)?;
    let is_odd = |c: char| c != '\n' && plain(c.encode_utf8(&mut [0; 4])) != c.to_string();
    if !text.contains(is_odd) {
        return Ok(text);
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        // Such characters are below U+10000, and stand inside strings only.
        if is_odd(c) { shown.push_str(&format!("\\u{:04x}", u32::from(c))) } else { shown.push(c) }
    }
    Ok(shown)
}
