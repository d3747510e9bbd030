//! `icbd`: a master, a cache server, and the commands that talk to them. One binary.
//!
//! The raw command line (`args`) becomes settings in one step (`settings`); the rest is a match.
//! The roles compose the other rooms; no logic of theirs is here.

mod args;
mod failure;
mod audit;
mod connections;
mod control;
mod logging;
mod near;
mod output;
mod settings;

fn main() {
    use clap::Parser;
    let args = args::Args::parse();
    println!("{args:?}");
}
