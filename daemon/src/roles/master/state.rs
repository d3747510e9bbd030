//! What a running master consists of.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use icbd_image::Trust;
use icbd_master::Repository;
use ipnet::IpNet;

use super::operations::Operations;
use crate::args::MasterArgs;
use crate::audit::Audit;
use crate::images::ImageSummary;
use crate::report::{MasterReport, Process, Report, SentReport};
use crate::roles::config::RunningConfig;
use crate::serve::{Allow, Sent};
use crate::settings::{Reloaded, Settings, TRUST_KEYS};

/// A running master. Everything that is asked of it from memory is answered from here.
#[derive(Debug)]
pub(super) struct Master {
    pub(super) repository: Arc<Repository>,
    pub(super) audit: Audit,
    pub(super) operations: Operations,
    pub(super) sent: Arc<Sent>,
    believed: RwLock<Believed>,
    allow: Allow,
    config: RunningConfig<MasterArgs>,
    listen: Vec<SocketAddr>,
    started: Instant,
}

/// Keys.
#[derive(Debug, Clone)]
pub(super) struct Believed {
    /// Signs what is published without a key of its own.
    pub(super) sign_key: Option<PathBuf>,
    pub(super) trust: Trust,
}

impl Master {
    pub(super) fn new(
        repository: Arc<Repository>,
        audit: Audit,
        listen: Vec<SocketAddr>,
        believed: Believed,
        allow: Allow,
        config: RunningConfig<MasterArgs>,
    ) -> Master {
        let (operations, sent, believed) = (Operations::default(), Arc::default(), RwLock::new(believed));
        Master { repository, audit, operations, sent, believed, allow, config, listen, started: Instant::now() }
    }

    /// The keys that count now.
    pub(super) fn believed(&self) -> Believed {
        self.believed.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes over what was changed in the configuration and in the trusted keys' files. Blocks.
    pub(super) fn reload(&self) -> anyhow::Result<Reloaded> {
        let check = |settings: &Settings, args: &MasterArgs| -> anyhow::Result<(Believed, Vec<IpNet>)> {
            let master = settings.master(args)?;
            Ok((Believed { trust: master.trust.load()?, sign_key: master.sign_key }, master.allow))
        };
        self.config.reload(check, |(believed, allow), reloaded| {
            self.allow.set(&allow);
            let mut known = self.believed.write().unwrap_or_else(PoisonError::into_inner);
            if known.trust.keys != believed.trust.keys {
                reloaded.also(TRUST_KEYS);
            }
            *known = believed;
        })
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
