//! Packs what is published and keeps it, if that is wanted, so that nobody who fetches it waits for packing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use icbd_master::MasterError;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::state::Master;
use crate::report::PackedReport;
use crate::roles::every::Every;

/// How soon something new is noticed.
const INTERVAL: Duration = Duration::from_secs(2);
/// Whoever waits for something else goes first.
const NICE: i32 = 10;

/// What was packed last.
#[derive(Debug, Default)]
pub(super) struct Packing(Mutex<Option<State>>);

/// What there was to pack: the repository's revision, how many bytes may be kept, and what had gone of it.
type State = (u64, u64, u64);

/// Ends what runs on a thread when it is dropped.
struct Running(Arc<AtomicBool>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// From the start on, until `stop`.
pub(super) async fn run(master: Arc<Master>, stop: CancellationToken) {
    let mut every = Every::new(INTERVAL, stop);
    while every.turn(pack(&master)).await.is_some() {}
}

async fn pack(master: &Arc<Master>) {
    let state = wanted(master);
    if *master.packing.lock() == Some(state) {
        return;
    }
    let (cancel, owned, (done, mut is_done)) = (Arc::<AtomicBool>::default(), master.clone(), oneshot::channel());
    let running = Running(cancel.clone());
    let work = move || {
        if let Err(error) = rustix::process::nice(NICE) {
            tracing::debug!(%error, "packing is as urgent as all else");
        }
        drop(done.send(owned.repository.pack(state.1, &cancel)));
    };
    let spawned = std::thread::Builder::new().name("packing".to_owned()).spawn(work);
    if let Err(error) = spawned {
        return tracing::warn!(%error, "nothing is packed ahead of its use");
    }
    let ended = loop {
        tokio::select! {
            ended = &mut is_done => break ended,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let (revision, bytes_max, _) = wanted(master);
        if (revision, bytes_max) != (state.0, state.1) {
            // What is new goes first, and what was packed until now is kept.
            running.0.store(true, Ordering::Relaxed);
        }
    };
    match ended {
        Ok(Ok(())) => *master.packing.lock() = Some(state),
        Ok(Err(MasterError::Cancelled)) => {}
        Ok(Err(error)) => tracing::warn!(%error, "not all is packed ahead of its use"),
        Err(_) => tracing::error!("packing ahead of use died; it begins anew"),
    }
}

fn wanted(master: &Master) -> State {
    let repository = &master.repository;
    (repository.revision(), master.believed().keep_packed_bytes, repository.packed_losses())
}

impl Packing {
    fn lock(&self) -> MutexGuard<'_, Option<State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is kept, if that is wanted.
pub(super) fn report(master: &Master) -> Option<PackedReport> {
    let state = wanted(master);
    let is_complete = *master.packing.lock() == Some(state);
    (state.1 > 0).then(|| PackedReport { bytes: master.repository.packed_bytes(), bytes_max: state.1, is_complete })
}
