//! What caches say of themselves with their polls of the listing, on its way to who keeps it.

use std::net::IpAddr;

use icbd_wire::{NodeReport, ReadyReport};
use tokio::sync::mpsc;

/// Reports that wait; a cache repeats one that was dropped with its next poll.
const REPORTS_MAX: usize = 256;

/// Where the TCP plane leaves the reports that it was told, each with the address that it came from.
#[derive(Debug, Clone)]
pub(crate) struct Reports(mpsc::Sender<Told>);

/// From where, and what.
pub(crate) type Told = (IpAddr, NodeReport, ReadyReport);

impl Reports {
    /// A place for reports, and where they come out.
    pub(crate) fn channel() -> (Reports, mpsc::Receiver<Told>) {
        let (sender, receiver) = mpsc::channel(REPORTS_MAX);
        (Reports(sender), receiver)
    }

    /// Never waits.
    pub(super) fn heard(&self, from: IpAddr, report: NodeReport, ready: ReadyReport) {
        let _ = self.0.try_send((from, report, ready));
    }
}
