//! What systemd is told: readiness, stopping, and that the daemon's own loop still turns.

use std::io::ErrorKind;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Says that the daemon serves.
pub(crate) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Says that the daemon ends.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// What a daemon is told by a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP: read the configuration anew.
    Reload,
    /// SIGUSR2: end, and leave everything to the daemon that is started next.
    Restart,
}

/// The signals that a daemon is told things by. Made before anybody is told that it serves: none of them ends it
/// unheard from then on.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    leave: Signal,
}

impl Signals {
    pub(crate) fn listen() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            leave: signal(SignalKind::user_defined2())?,
        })
    }

    /// Waits for one, and feeds the watchdog meanwhile, if there is one.
    pub(crate) async fn told(&mut self) -> Told {
        // Twice in each interval: one late turn of the loop is no reason to be killed.
        let period = sd_notify::watchdog_enabled().map(|interval| interval / 2);
        let mut ticks = period.map(tokio::time::interval);
        loop {
            let tick = async {
                match &mut ticks {
                    Some(ticks) => ticks.tick().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = self.terminate.recv() => return Told::Stop,
                _ = self.interrupt.recv() => return Told::Stop,
                _ = self.hang_up.recv() => return Told::Reload,
                _ = self.leave.recv() => return Told::Restart,
                _ = tick => tell(&[NotifyState::Watchdog]),
            }
        }
    }
}

fn tell(states: &[NotifyState<'_>]) {
    // Without systemd nobody listens, and that is fine; `mount.icbd` listens until the daemon is ready.
    match sd_notify::notify(states) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {}
        Err(error) => tracing::warn!(%error, "cannot tell systemd how it goes"),
        Ok(()) => {}
    }
}
