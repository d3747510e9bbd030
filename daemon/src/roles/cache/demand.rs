//! The thread on which blocks are fetched that somebody waits for, and nothing else.

use std::thread::JoinHandle;

use anyhow::Context;
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// A runtime of one thread. It ends when this is dropped, and drops what it still runs.
#[derive(Debug)]
pub(super) struct DemandThread {
    handle: Handle,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl DemandThread {
    pub(super) fn start() -> anyhow::Result<DemandThread> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (handle, stop) = (runtime.handle().clone(), CancellationToken::new());
        let stopped = stop.clone();
        let serve = move || runtime.block_on(stopped.cancelled());
        let thread = std::thread::Builder::new().name("icbd-demand".into()).spawn(serve);
        Ok(DemandThread { handle, stop, thread: Some(thread.context("cannot start the thread that fetches")?) })
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for DemandThread {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that fetches what is waited for panicked");
        }
    }
}
