//! The configuration that a daemon runs with, and taking over one that was changed.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::logging::Logging;
use crate::settings::{File, Reloaded, Role, Settings};

/// What a daemon was started with, and what was taken over since.
#[derive(Debug)]
pub(super) struct RunningConfig<A> {
    role: Role,
    args: A,
    logging: Logging,
    /// As it was at the start: what needs a restart holds since then.
    started: File,
    now: Mutex<Settings>,
}

impl<A> RunningConfig<A> {
    pub(super) fn new(role: Role, settings: &Settings, args: A, logging: Logging) -> RunningConfig<A> {
        RunningConfig { role, args, logging, started: settings.file.clone(), now: Mutex::new(settings.clone()) }
    }

    /// Reads the configuration anew and has `check` make of it what the role needs. Only if all of it is right `apply`
    /// takes it over; it may add what changed beside the file. Blocks.
    pub(super) fn reload<T>(
        &self,
        check: impl FnOnce(&Settings, &A) -> anyhow::Result<T>,
        apply: impl FnOnce(T, &mut Reloaded),
    ) -> anyhow::Result<Reloaded> {
        // One at a time: the next builds on what this one leaves.
        let mut now = self.lock();
        let new = now.again()?;
        let checked = check(&new, &self.args)?;
        let mut reloaded = Reloaded {
            applied: Reloaded::between(self.role, &now.file, &new.file).applied,
            restart: Reloaded::between(self.role, &self.started, &new.file).restart,
        };
        apply(checked, &mut reloaded);
        self.logging.set(new.log_level());
        *now = new;
        Ok(reloaded)
    }

    fn lock(&self) -> MutexGuard<'_, Settings> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says in the log what came of a reload that a signal asked for.
pub(super) fn log(outcome: &anyhow::Result<Reloaded>) {
    match outcome {
        Ok(Reloaded { applied, restart }) => {
            tracing::info!(
                in_force = applied.join(", "),
                needs_restart = restart.join(", "),
                "configuration read anew"
            );
        }
        Err(error) => tracing::error!("the configuration is not right, the old one holds: {error:#}"),
    }
}
