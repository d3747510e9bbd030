//! The read-only TCP plane: what a [`wire::Resource`](icbd_wire::Resource) path names is sent, nothing is changed.
//!
//! Reads of the repository are done on blocking threads, a piece at a time, so that a slow client holds
//! one piece and no thread.

mod allow;
mod answer;
mod blocks;
mod boot;
mod cache;
mod count;
mod exported;
mod files;
mod listing;
mod metrics;
mod nodes;
mod offers;
mod peers;
mod pieces;
mod range;
mod reports;
mod routes;
mod stored;
mod streams;
mod tcp;
mod tls;
mod written;

pub(crate) use allow::Allow;
pub(crate) use boot::{Asking, Booting, boot_router};
pub(crate) use cache::cache_router;
pub(crate) use count::Sent;
pub(crate) use exported::{Readers, files_router};
pub(crate) use metrics::metrics_router;
pub(crate) use nodes::for_nodes;
pub(crate) use offers::Offers;
pub(crate) use reports::{Reports, Told};
pub(crate) use routes::router;
pub(crate) use tcp::{listen, serve};
pub(crate) use tls::{Certificate, Tls};
pub(crate) use written::written_router;
