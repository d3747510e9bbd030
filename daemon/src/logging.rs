//! The daemons' log: lines on stderr, where systemd's journal picks them up.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::settings::LogLevel;

/// Begins to log at `level`; what other crates say only from warnings up.
pub(crate) fn start(level: LogLevel) {
    let level = match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    let rooms = ["icbd", "icbd_master", "icbd_fetch", "icbd_cache", "icbd_fs"];
    let directives: String = rooms.map(|room| format!("{room}={level},")).concat();
    let filter = EnvFilter::new(format!("{directives}warn"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Whoever read the log may be gone: that is no reason to end.
    let log = log.log_internal_errors(false);
    // The journal has the time of each line already.
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let log = log.with_ansi(std::io::stderr().is_terminal()).with_target(level == "debug" || level == "trace");
    if journal {
        log.without_time().init();
    } else {
        log.init();
    }
}
