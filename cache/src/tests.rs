//! The cache as a whole, on disks and sources that misbehave.

mod boot_orders;
mod boots;
mod checked;
mod clones;
mod crash;
mod damage;
mod evict;
mod full;
mod lost;
mod master;
mod model;
mod orders;
mod profiles;
mod reads;
mod rig;
mod seal;
mod seam;
mod thin;
mod trust;
mod written;
mod zeros;
