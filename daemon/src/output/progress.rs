//! How far a long command is: a bar on a terminal, a plain line every few seconds elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Talk, bytes, complain, percent, plain, seconds};

/// How far something is. Travels over the control socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// What is being done: "hashing", "storing" …
    pub what: String,
    pub done_bytes: u64,
    /// 0 while it is not known.
    pub total_bytes: u64,
}

/// Often enough to see that it lives, rarely enough for a log.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Shows [`Progress`] on stderr until it is dropped.
pub(crate) struct ProgressBar {
    shown: Shown,
    started: Instant,
    /// What was done before it was looked at.
    before: Option<u64>,
}

enum Shown {
    Nothing,
    Bar(indicatif::ProgressBar),
    Lines { last: Instant },
}

impl ProgressBar {
    pub(crate) fn new(talk: Talk) -> ProgressBar {
        let started = Instant::now();
        let shown = match (talk.quiet, std::io::stderr().is_terminal()) {
            (true, _) => Shown::Nothing,
            (false, true) => Shown::Bar(bar()),
            (false, false) => Shown::Lines { last: started },
        };
        ProgressBar { shown, started, before: None }
    }

    pub(crate) fn show(&mut self, progress: &Progress) {
        let before = *self.before.get_or_insert(progress.done_bytes);
        match &mut self.shown {
            Shown::Nothing => {}
            Shown::Bar(bar) => {
                if bar.position() == 0 {
                    bar.set_position(before);
                    bar.reset_eta();
                }
                bar.set_message(plain(&progress.what));
                bar.set_length(progress.total_bytes.max(progress.done_bytes));
                bar.set_position(progress.done_bytes);
            }
            Shown::Lines { last } => {
                if last.elapsed() >= LINE_INTERVAL {
                    *last = Instant::now();
                    complain(&line(progress, before, self.started.elapsed()));
                }
            }
        }
    }
}

impl Drop for ProgressBar {
    fn drop(&mut self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

fn bar() -> indicatif::ProgressBar {
    let template = "{msg} [{bar:30}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} left";
    let style = indicatif::ProgressStyle::with_template(template).expect("the template is constant");
    indicatif::ProgressBar::new(0).with_style(style.progress_chars("=> "))
}

/// `hashing: 18 GiB of 31 GiB (58 %), 512 MiB/s, 26 s left`.
fn line(progress: &Progress, before: u64, elapsed: Duration) -> String {
    let Progress { what, done_bytes, total_bytes } = progress;
    let rate = (done_bytes.saturating_sub(before) as f64 / elapsed.as_secs_f64().max(0.001)) as u64;
    let rate_text = format!("{}/s", bytes(rate));
    if *total_bytes == 0 {
        return format!("{what}: {}, {rate_text}", bytes(*done_bytes));
    }
    let left = total_bytes.saturating_sub(*done_bytes).checked_div(rate).map_or("?".into(), seconds);
    let share = percent(*done_bytes, *total_bytes);
    format!("{what}: {} of {} ({share}), {rate_text}, {left} left", bytes(*done_bytes), bytes(*total_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_bytes_rate_and_time_left() {
        let progress = |done_bytes, total_bytes| Progress { what: "hashing".into(), done_bytes, total_bytes };
        let second = Duration::from_secs(1);
        assert_eq!(
            line(&progress(1 << 20, 11 << 20), 0, second),
            "hashing: 1.0 MiB of 11.0 MiB (9 %), 1.0 MiB/s, 10 s left"
        );
        assert_eq!(line(&progress(5, 0), 0, second), "hashing: 5 B, 5 B/s");
        assert_eq!(line(&progress(0, 9), 0, Duration::ZERO), "hashing: 0 B of 9 B (0 %), 0 B/s, ? left");
        // What was there before says nothing of how fast it is.
        assert_eq!(line(&progress(5, 9), 5, second), "hashing: 5 B of 9 B (55 %), 0 B/s, ? left");
    }
}
