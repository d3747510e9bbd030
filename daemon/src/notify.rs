//! What systemd is told: readiness, stopping, and that the daemon's own loop still turns.

use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};

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

/// Waits for a signal, and feeds the watchdog meanwhile, if there is one.
pub(crate) async fn run_until_told() -> std::io::Result<Told> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (mut hang_up, mut leave) = (signal(SignalKind::hangup())?, signal(SignalKind::user_defined2())?);
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
            _ = terminate.recv() => return Ok(Told::Stop),
            _ = interrupt.recv() => return Ok(Told::Stop),
            _ = hang_up.recv() => return Ok(Told::Reload),
            _ = leave.recv() => return Ok(Told::Restart),
            _ = tick => tell(&[NotifyState::Watchdog]),
        }
    }
}

fn tell(states: &[NotifyState<'_>]) {
    // Without systemd nobody listens, and that is fine.
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot tell systemd how it goes");
    }
}
