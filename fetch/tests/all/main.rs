//! The tests of fetching, in one program.

mod conformance;
mod http;
mod parrot;
mod runs;
mod sources;
mod support;
mod throughput;
