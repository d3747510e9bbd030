//! How the daemons' memory is given back to the kernel: seldom.
//!
//! Frames and reads are buffers of up to 1 MiB. By default glibc maps each of them anew and unmaps it, so that
//! every one is cleared and faulted in page by page: a cold stream through a cache then ran at 200 MB/s
//! where it ran at 340 with buffers that are kept. What is kept is bounded by the budget for blocks in flight.
//!
//! JUSTIFICATION for unsafe: glibc's mallopt(3) has no safe wrapper.
#![allow(unsafe_code)]

/// Larger than any buffer of the data path: none of them is mapped on its own.
const MAP_FROM_BYTES: libc::c_int = 16 << 20;
/// Free memory at the top of the heap that is kept: what a stream in full flight uses.
const KEEP_BYTES: libc::c_int = 64 << 20;

/// Has glibc keep freed buffers for the next ones. To be called before there are threads.
pub(crate) fn keep_freed_buffers() {
    // SAFETY: no pointers are involved, and no other thread runs yet. A refusal leaves the defaults.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAP_FROM_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEEP_BYTES);
    }
}
