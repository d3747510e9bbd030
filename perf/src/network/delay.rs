//! Distance: packets cross between two tunnel devices only after a while. `netem` would do it in the kernel, but not
//! every kernel has it, and numbers of two kinds of line could not be compared.
//!
//! JUSTIFICATION of unsafe code: a tunnel device gets its name by an ioctl that has no safe binding.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{Error, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::libc;
use nix::poll::{PollFd, PollFlags, poll};

/// From `linux/if_tun.h`: make this descriptor a device; layer 3, without a header of its own.
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
const IFF_TUN_NO_PI: i16 = 0x1001;
/// Longer than any packet that a device of 1500 bytes takes.
const PACKET_BYTES_MAX: usize = 2048;
/// Packets under way in one direction; a line of 1 Gbit/s and 100 ms holds as many.
const UNDER_WAY_MAX: usize = 10_000;
/// How often a reader looks whether it should end.
const STOP_MS: u16 = 100;

/// `struct ifreq` with the union as bytes.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: i16,
    rest: [u8; 22],
}

/// Joins two tunnel devices until it is dropped.
#[derive(Debug)]
pub(crate) struct Delay {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Delay {
    /// Makes a tunnel device in this thread's network namespace. It lasts as long as the descriptor.
    pub(crate) fn tunnel(name: &str) -> Result<File> {
        let tunnel = OpenOptions::new().read(true).write(true).open("/dev/net/tun").context("opening /dev/net/tun")?;
        let mut request = InterfaceRequest { name: [0; 16], flags: IFF_TUN_NO_PI, rest: [0; 22] };
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        // SAFETY: the request is laid out as the kernel wants it, and larger than what it reads.
        let result = unsafe { libc::ioctl(tunnel.as_raw_fd(), TUNSETIFF, &raw const request) };
        if result < 0 {
            return Err(Error::last_os_error()).context("making a tunnel device");
        }
        Ok(tunnel)
    }

    /// Lets packets cross between `a` and `b`, each `one_way` after it was sent.
    pub(crate) fn join(a: File, b: File, one_way: Duration) -> Delay {
        let (a, b, is_over) = (Arc::new(a), Arc::new(b), Arc::new(AtomicBool::new(false)));
        let mut threads = Vec::new();
        for (from, to) in [(a.clone(), b.clone()), (b, a)] {
            let (sender, receiver) = sync_channel(UNDER_WAY_MAX);
            let is_over = is_over.clone();
            threads.push(std::thread::spawn(move || take(&from, one_way, &sender, &is_over)));
            threads.push(std::thread::spawn(move || give(&to, &receiver)));
        }
        Delay { is_over, threads }
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

type Packet = (Instant, Vec<u8>);

fn take(mut from: &File, one_way: Duration, sender: &SyncSender<Packet>, is_over: &AtomicBool) {
    let mut buffer = [0; PACKET_BYTES_MAX];
    while !is_over.load(Ordering::Relaxed) {
        let mut ready = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
        if poll(&mut ready, STOP_MS).unwrap_or(0) == 0 {
            continue;
        }
        let Ok(count) = from.read(&mut buffer) else { continue };
        if sender.send((Instant::now() + one_way, buffer[..count].to_vec())).is_err() {
            return;
        }
    }
}

fn give(mut to: &File, receiver: &Receiver<Packet>) {
    while let Ok((due, packet)) = receiver.recv() {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        // A device that is down or full drops packets, as lines do.
        let _ = to.write(&packet);
    }
}
