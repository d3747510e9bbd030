//! The daemons: the other rooms put together, with a control plane in front.

pub(crate) mod cache;
mod config;
mod every;
pub(crate) mod master;
mod space;
