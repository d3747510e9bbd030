//! Real mounts on real caches: what readers are promised, and what must not happen. Needs root and
//! FUSE. Everything is in temporary folders.

mod clones;
#[path = "../lab/mod.rs"]
mod lab;
mod mount_points;
mod read_only;
mod reading;
mod repair;
mod tree;
