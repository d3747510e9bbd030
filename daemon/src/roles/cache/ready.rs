//! Which versions are ready for a boot though they are not complete: all that boots are known to read is here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use icbd_image::{Serial, Timestamp};
use tokio_util::sync::CancellationToken;

use super::state::CacheServer;
use crate::output;
use crate::roles::every::Every;

const INTERVAL: Duration = Duration::from_secs(10);
const AGAIN_AFTER: Duration = Duration::from_secs(600);

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
    let (mut every, mut looked) = (Every::new(INTERVAL, stop), HashMap::new());
    while every.turn(look(&server, &mut looked)).await.is_some() {}
}

/// Looks at those of which more or less is here than at the last look, and now and then at all: profiles change, too.
async fn look(server: &CacheServer, looked: &mut HashMap<Serial, (u64, Instant)>) {
    for version in server.cache.status().versions {
        let here = version.residency.resident_bytes;
        if looked.get(&version.serial).is_some_and(|(then, when)| *then == here && when.elapsed() < AGAIN_AFTER) {
            continue;
        }
        looked.insert(version.serial, (here, Instant::now()));
        let is_part = here > 0 && !version.complete;
        // What cannot be told now is not promised.
        let is_ready =
            is_part && server.cache.is_boot_ready(version.serial).await.is_ok_and(|ready| ready == Some(true));
        server.ready.set(version.serial, is_ready);
    }
}
