//! Which versions are ready for a boot though they are not complete: all that boots are known to read is here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use icbd_image::{Serial, Timestamp};
use tokio_util::sync::CancellationToken;

use super::state::CacheServer;
use crate::output;
use crate::roles::every::Every;

const INTERVAL: Duration = Duration::from_secs(10);

/// The versions that are, and since when this daemon has seen them so.
#[derive(Debug, Default)]
pub(super) struct Ready(Mutex<HashMap<Serial, Timestamp>>);

impl Ready {
    pub(super) fn since(&self, serial: Serial) -> Option<Timestamp> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&serial).copied()
    }

    fn set(&self, serial: Serial, is_ready: bool) {
        let mut ready = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match is_ready {
            true => _ = ready.entry(serial).or_insert_with(output::now),
            false => _ = ready.remove(&serial),
        }
    }
}

/// Looks again and again until `stop`.
pub(super) async fn watch(server: Arc<CacheServer>, stop: CancellationToken) {
    let mut every = Every::new(INTERVAL, stop);
    while every.turn(look(&server)).await.is_some() {}
}

async fn look(server: &CacheServer) {
    for version in server.cache.status().versions {
        let is_part = version.residency.resident_bytes > 0 && !version.complete;
        // What cannot be told now is not promised.
        let is_ready =
            is_part && server.cache.is_boot_ready(version.serial).await.is_ok_and(|ready| ready == Some(true));
        server.ready.set(version.serial, is_ready);
    }
}
