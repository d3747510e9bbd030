//! What a running master consists of.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use icbd_fetch::{Authorities, Habits};
use icbd_image::{ImageRecord, Trust};
use icbd_master::{Repository, Retention};
use tokio::sync::Notify;

use super::operations::Operations;
use super::pack::{self, Packing};
use crate::args::MasterArgs;
use crate::audit::Audit;
use crate::images::ImageSummary;
use crate::moves::PlanReport;
use crate::report::{MasterReport, Process, Report, SentReport};
use crate::roles::config::RunningConfig;
use crate::roles::space::Space;
use crate::serve::{Allow, Certificate, Sent, Tls};
use crate::settings::{MasterSettings, Reloaded, Settings, TLS_CERT, TRUST_CA, TRUST_KEYS};

/// A running master. Everything that is asked of it from memory is answered from here.
#[derive(Debug)]
pub(super) struct Master {
    pub(super) repository: Arc<Repository>,
    pub(super) audit: Audit,
    pub(super) operations: Operations,
    pub(super) sent: Arc<Sent>,
    /// Told when what is planned changes.
    pub(super) planned: Notify,
    pub(super) packing: Packing,
    pub(super) space: Space,
    /// How blocks travel best from the masters that were asked for versions.
    habits: Mutex<Habits>,
    believed: RwLock<Believed>,
    allow: Allow,
    /// What is shown to whoever connects, if that is encrypted.
    tls: Option<Tls>,
    config: RunningConfig<MasterArgs>,
    listen: Vec<SocketAddr>,
    started: Instant,
}

/// Keys, and what is kept.
#[derive(Debug, Clone)]
pub(super) struct Believed {
    /// Signs what is published without a key of its own.
    pub(super) sign_key: Option<PathBuf>,
    pub(super) trust: Trust,
    pub(super) retention: Retention,
    /// What may be kept of packed runs; 0: nothing.
    pub(super) keep_packed_bytes: u64,
    /// Who vouches for other masters that speak TLS.
    pub(super) authorities: Authorities,
}

impl Believed {
    /// What the settings say. Blocks.
    pub(super) fn of(settings: &MasterSettings) -> anyhow::Result<Believed> {
        let (trust, sign_key) = (settings.trust.load()?, settings.sign_key.clone());
        let (retention, keep_packed_bytes) = (settings.retention, settings.keep_packed_bytes);
        Ok(Believed { trust, sign_key, retention, keep_packed_bytes, authorities: settings.trust.authorities()? })
    }
}

impl Master {
    pub(super) fn new(
        repository: Arc<Repository>,
        audit: Audit,
        listen: Vec<SocketAddr>,
        believed: Believed,
        allow: Allow,
        tls: Option<Tls>,
        config: RunningConfig<MasterArgs>,
    ) -> Master {
        let (operations, sent, believed) = (Operations::default(), Arc::default(), RwLock::new(believed));
        let (planned, packing, started) = (Notify::new(), Packing::default(), Instant::now());
        let (habits, space) = (Mutex::default(), Space::new(repository.path()));
        Master {
            repository,
            audit,
            operations,
            sent,
            planned,
            packing,
            space,
            habits,
            believed,
            allow,
            tls,
            config,
            listen,
            started,
        }
    }

    /// What is known of how blocks travel best from other masters.
    pub(super) fn habits(&self) -> Habits {
        self.habits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The next version that comes from there begins so.
    pub(super) fn learn(&self, habits: Habits) {
        self.habits.lock().unwrap_or_else(PoisonError::into_inner).learn(habits);
    }

    /// The keys that count now.
    pub(super) fn believed(&self) -> Believed {
        self.believed.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes over what was changed in the configuration and in the trusted keys' files. Blocks.
    pub(super) fn reload(&self) -> anyhow::Result<Reloaded> {
        let check = |settings: &Settings, args: &MasterArgs| -> anyhow::Result<_> {
            let master = settings.master(args)?;
            let certificate = master.tls.as_ref().map(Certificate::load).transpose()?;
            Ok((Believed::of(&master)?, master.allow, certificate))
        };
        self.config.reload(check, |(believed, allow, certificate), reloaded| {
            self.allow.set(&allow);
            // Whether there is TLS at all is decided at the start.
            if let (Some(tls), Some(certificate)) = (&self.tls, certificate)
                && tls.renew(certificate)
            {
                reloaded.also(TLS_CERT);
            }
            let mut known = self.believed.write().unwrap_or_else(PoisonError::into_inner);
            if known.trust.keys != believed.trust.keys {
                reloaded.also(TRUST_KEYS);
            }
            if known.authorities != believed.authorities {
                reloaded.also(TRUST_CA);
            }
            *known = believed;
        })
    }

    pub(super) fn images(&self) -> Vec<ImageSummary> {
        let (plans, damages) = (self.plans(), self.repository.damages());
        let summary = |image: &ImageRecord| {
            let mut summary = ImageSummary::from(image);
            summary.plan = plans.iter().find(|plan| plan.version.image == image.name).cloned();
            for version in &mut summary.versions {
                version.damage = damages.get(&version.version).cloned();
            }
            summary
        };
        self.repository.listing().images.iter().map(summary).collect()
    }

    /// What pruning leaves, by the configuration as it is now.
    pub(super) fn retention(&self) -> Retention {
        self.believed().retention
    }

    fn plans(&self) -> Vec<PlanReport> {
        // What cannot be read now is not shown, and is no reason to show nothing.
        let plans = self.repository.plans().unwrap_or_default();
        plans.into_iter().map(|plan| PlanReport::of(plan, &self.repository)).collect()
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
            tls: self.tls.is_some(),
            images: listing.images.len(),
            versions: listing.images.iter().map(|image| image.versions.len()).sum(),
            editing: super::edits::all(self),
            plans: self.plans(),
            operations: self.operations.list(),
            sent: SentReport { requests, blocks, bytes },
            packed: pack::report(self),
            disk: Some(self.space.last()).filter(|disk| disk.size_bytes > 0),
            warnings: damages.iter().map(|(version, what)| format!("{version} is damaged: {what}")).collect(),
        })
    }
}
