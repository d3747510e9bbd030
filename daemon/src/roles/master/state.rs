//! What a running master consists of.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use icbd_image::Trust;
use icbd_master::Repository;

use super::operations::Operations;
use crate::audit::Audit;
use crate::images::ImageSummary;
use crate::report::{MasterReport, Process, Report, SentReport};
use crate::serve::Sent;

/// A running master. Everything that is asked of it from memory is answered from here.
#[derive(Debug)]
pub(super) struct Master {
    pub(super) repository: Arc<Repository>,
    pub(super) audit: Audit,
    pub(super) operations: Operations,
    pub(super) sent: Arc<Sent>,
    /// Signs what is published without a key of its own.
    pub(super) sign_key: Option<PathBuf>,
    pub(super) trust: Trust,
    listen: Vec<SocketAddr>,
    started: Instant,
}

impl Master {
    pub(super) fn new(
        repository: Arc<Repository>,
        audit: Audit,
        listen: Vec<SocketAddr>,
        sign_key: Option<PathBuf>,
        trust: Trust,
    ) -> Master {
        let (operations, sent) = (Operations::default(), Arc::default());
        Master { repository, audit, operations, sent, sign_key, trust, listen, started: Instant::now() }
    }

    pub(super) fn images(&self) -> Vec<ImageSummary> {
        self.repository.listing().images.iter().map(ImageSummary::from).collect()
    }

    pub(super) fn report(&self) -> Report {
        let listing = self.repository.listing();
        let (requests, blocks, bytes) = self.sent.totals();
        let damages = self.repository.damages();
        Report::Master(MasterReport {
            process: Process::this(self.started),
            repository: listing.repository,
            path: self.repository.path().to_owned(),
            listen: self.listen.clone(),
            images: listing.images.len(),
            versions: listing.images.iter().map(|image| image.versions.len()).sum(),
            operations: self.operations.list(),
            sent: SentReport { requests, blocks, bytes },
            warnings: damages.iter().map(|(version, what)| format!("{version} is damaged: {what}")).collect(),
        })
    }
}
