//! Sources for tests, here and in the crates that fetch: one in memory, and one that fails on demand.
//!
//! Part of the library, not of its tests, because the tests of `cache/`, `fs/` and `daemon/` stand on
//! them. Nothing outside tests uses this module.

mod faulty;
mod memory;

pub use faulty::{Fault, FaultySource};
pub use memory::{Asked, MemorySource};
