//! The control plane: REST over the daemon's Unix socket. Every change goes through it.
//!
//! It runs on a thread and runtime of its own, so that `icbd status` is answered while everything else
//! hangs. Long operations run on the daemon's runtime and tell their progress as JSON lines
//! ([`events`]).

mod client;
pub(crate) mod events;
mod peer;
mod server;
mod socket;

pub(crate) use client::{Client, Heard};
pub(crate) use events::Event;
pub(crate) use peer::Peer;
pub(crate) use server::{ControlServer, fail};
