//! What waits for a disk where tasks ask for it.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Does what may wait for a disk, while another thread goes on with the tasks of this one.
pub(crate) fn in_place<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current() {
        Ok(runtime) if runtime.runtime_flavor() == RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        _ => work(),
    }
}
