//! What caches offer with their polls of the listing, on its way to who fetches it.

use std::net::IpAddr;

use icbd_wire::Offer;
use tokio::sync::mpsc;

/// Offers that wait; a cache repeats one that was dropped with its next poll.
const OFFERS_MAX: usize = 64;

/// Where the TCP plane leaves the offers that it was told, each with the address that it came from.
#[derive(Debug, Clone)]
pub(crate) struct Offers(mpsc::Sender<(IpAddr, Offer)>);

impl Offers {
    /// A place for offers, and where they come out.
    pub(crate) fn channel() -> (Offers, mpsc::Receiver<(IpAddr, Offer)>) {
        let (sender, receiver) = mpsc::channel(OFFERS_MAX);
        (Offers(sender), receiver)
    }

    /// Never waits.
    pub(super) fn heard(&self, from: IpAddr, offer: Offer) {
        let _ = self.0.try_send((from, offer));
    }
}
