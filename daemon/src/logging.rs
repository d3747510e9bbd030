//! The daemons' log: lines on stderr, where systemd's journal picks them up.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::settings::LogLevel;

/// The log while it runs.
#[derive(Debug, Clone)]
pub(crate) struct Logging(reload::Handle<EnvFilter, Registry>);

impl Logging {
    /// Logs at `level` from now on.
    pub(crate) fn set(&self, level: LogLevel) {
        // An error is that nobody logs any more.
        let _ = self.0.reload(filter(level));
    }
}

/// Begins to log at `level`; what other crates say only from warnings up.
pub(crate) fn start(level: LogLevel) -> Logging {
    let (filter, handle) = reload::Layer::new(filter(level));
    let is_detailed = matches!(level, LogLevel::Debug | LogLevel::Trace);
    // Whoever read the log may be gone: that is no reason to end.
    let lines = fmt::layer().with_writer(std::io::stderr).log_internal_errors(false);
    let lines = lines.with_ansi(std::io::stderr().is_terminal()).with_target(is_detailed);
    // The journal has the time of each line already.
    let lines = match std::env::var_os("JOURNAL_STREAM") {
        Some(_) => lines.without_time().boxed(),
        None => lines.boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).init();
    Logging(handle)
}

fn filter(level: LogLevel) -> EnvFilter {
    let level = match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    let rooms = ["icbd", "icbd_master", "icbd_fetch", "icbd_cache", "icbd_fs"];
    let directives: String = rooms.map(|room| format!("{room}={level},")).concat();
    EnvFilter::new(format!("{directives}warn"))
}
