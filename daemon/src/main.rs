//! `icbd`: a master, a cache server, and the commands that talk to them. One binary.
//!
//! The raw command line (`args`) becomes settings in one step (`settings`); the rest is a match. The roles
//! compose the other rooms, and the commands ask a role over its control socket; no logic of theirs is here.

mod args;
mod audit;
mod commands;
mod connections;
mod control;
mod failure;
mod images;
mod jobs;
mod logging;
mod near;
mod notify;
mod output;
mod report;
mod roles;
mod serve;
mod settings;
mod trust;
mod verify;

use std::process::ExitCode;

use args::{Args, Command};
use clap::Parser;
use commands::block_on;
use failure::Failure;
use settings::Settings;

fn main() -> ExitCode {
    let args = Args::parse();
    match run(args) {
        Ok(code) => code,
        Err(error) => {
            let failure = Failure::of(&error);
            eprintln!("icbd: {failure}");
            failure.exit.code().into()
        }
    }
}

fn run(args: Args) -> anyhow::Result<ExitCode> {
    let settings = Settings::resolve(&args.global)?;
    match args.command {
        Command::Master(args) => roles::master::run(&settings, &args)?,
        Command::Cache(args) => return roles::cache::run(&settings, &args),
        Command::Status { all } => block_on(commands::status::run(&settings, all))?,
        Command::Image(command) => block_on(commands::image::run(&settings, command))?,
        Command::Prefetch(command) => block_on(commands::prefetch::run(&settings, command))?,
        Command::Key(command) => commands::key::run(&settings, &command)?,
        Command::Config(command) => commands::config::run(&settings, command)?,
        Command::Log => block_on(commands::log::run(&settings))?,
        Command::SupportBundle { output } => commands::bundle::run(&settings, output)?,
    }
    Ok(ExitCode::SUCCESS)
}
