//! What a daemon asks of the system for its own process, before it does anything else.
//!
//! Memory is given back to the kernel seldom. Frames and reads are buffers of up to 1 MiB. By default glibc maps each of them anew and unmaps it, so that
//! every one is cleared and faulted in page by page: a cold stream through a cache then ran at 200 MB/s
//! where it ran at 340 with buffers that are kept. What is kept is bounded by the budget for blocks in flight.
//!
//! JUSTIFICATION for unsafe: glibc's mallopt(3) has no safe wrapper.
#![allow(unsafe_code)]

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Larger than any buffer of the data path: none of them is mapped on its own.
const MAP_FROM_BYTES: libc::c_int = 16 << 20;
/// Free memory at the top of the heap that is kept: what a stream in full flight uses.
const KEEP_BYTES: libc::c_int = 64 << 20;

/// Has the process be called so wherever processes are listed: it was started as `/proc/self/exe`, in part.
pub(crate) fn set_name() {
    // Whoever looks for it finds it by its command line, if not.
    let _ = nix::sys::prctl::set_name(c"icbd");
}

/// Raises the soft limit of open files to the hard one: a batch of small files that is being made durable holds
/// hundreds of them open, and a shell's soft limit is 1024. A refusal leaves the limit; the store copes.
pub(crate) fn allow_open_files() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    // The log is not open yet, and nobody has to act on it.
    let _ = raised;
}

/// Has glibc keep freed buffers for the next ones. To be called before there are threads.
pub(crate) fn keep_freed_buffers() {
    // SAFETY: no pointers are involved, and no other thread runs yet. A refusal leaves the defaults.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAP_FROM_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEEP_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_files_are_limited_by_the_hard_limit_only() {
        allow_open_files();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(soft, hard);
    }
}
