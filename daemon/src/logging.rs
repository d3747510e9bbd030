//! The daemons' log: lines on stderr, where systemd's journal picks them up.

use std::fmt::Debug;
use std::io::IsTerminal;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Context, SubscriberExt};
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
    tracing_subscriber::registry().with(filter).with(Unwanted).with(lines).init();
    Logging(handle)
}

/// Keeps out of the log what `fuser` calls an error and is none: an answer that the kernel no longer waits for (`ENOENT`),
/// because whoever asked was killed, or the mount has gone since.
struct Unwanted;

impl<S: Subscriber> Layer<S> for Unwanted {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let mut is_unwanted = IsUnwanted(false);
        if *event.metadata().level() == Level::ERROR {
            event.record(&mut is_unwanted);
        }
        !is_unwanted.0
    }
}

struct IsUnwanted(bool);

impl Visit for IsUnwanted {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0 |= format!("{value:?}") == "Failed to send FUSE reply: No such file or directory (os error 2)";
        }
    }
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

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    struct Count(Arc<AtomicUsize>);

    impl<S: Subscriber> Layer<S> for Count {
        fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// An answer that nobody waits for any more is not logged; one that could not be given for another reason is.
    #[test]
    fn answers_that_nobody_waits_for_are_no_errors() {
        let logged = Arc::new(AtomicUsize::new(0));
        let layers = tracing_subscriber::registry().with(Unwanted).with(Count(logged.clone()));
        let logged_for = |errno| {
            let fails = || tracing::error!("Failed to send FUSE reply: {}", io::Error::from_raw_os_error(errno));
            let before = logged.load(Ordering::Relaxed);
            fails();
            logged.load(Ordering::Relaxed) - before
        };
        tracing::subscriber::with_default(layers, || assert_eq!((logged_for(2), logged_for(22)), (0, 1)));
    }
}
