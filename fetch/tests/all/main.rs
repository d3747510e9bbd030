//! The tests of fetching, in one program.

mod conformance;
mod directory;
mod http;
mod parrot;
mod runs;
mod sources;
mod support;
mod throughput;
