//! Real mounts on real caches: what readers are promised, and what must not happen. Needs root and
//! FUSE; adoption needs Linux 6.9. Everything is in temporary folders.

mod lab;
mod mount_points;
mod outlives;
mod read_only;
mod reading;
mod tree;
