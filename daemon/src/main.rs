//! `icbd`: a master, a cache server, and the commands that talk to them. One binary.
//!
//! The raw command line (`args`) becomes settings in one step (`settings`); the rest is a match. The roles
//! compose the other rooms, and the commands ask a role over its control socket; no logic of theirs is here.

mod args;
mod audit;
mod blocking;
mod check;
mod clients;
mod clones;
mod commands;
mod connections;
mod control;
mod doctor;
mod edits;
mod evictions;
mod exports;
mod failure;
mod images;
mod improvements;
mod logging;
mod metrics;
mod moves;
mod near;
mod netboot;
mod notify;
mod orders;
mod output;
mod process;
mod profiles;
mod readiness;
mod replicas;
mod report;
mod roles;
mod scrubs;
mod serve;
mod settings;
mod trust;
mod verify;

use std::process::ExitCode;

use args::{Args, Command};
use clap::Parser;
use commands::block_on;
use doctor::Patient;
use failure::{Exit, Failure};
use settings::Settings;

fn main() -> ExitCode {
    let (is_check, failure) = match Args::try_parse() {
        Ok(args) => {
            let is_check = matches!(args.command, Command::Check);
            match run(args) {
                Ok(code) => return code,
                Err(error) => (is_check, Failure::of(&error)),
            }
        }
        Err(answer) if answer.use_stderr() && is_check() => {
            (true, Failure::new(Exit::Usage, answer.render().to_string()))
        }
        Err(answer) => return print(&answer),
    };
    if is_check {
        return commands::check::cannot(&failure);
    }
    match wants_json() {
        true => output::complain_json(&failure),
        false => output::complain(&format!("icbd: {failure}")),
    }
    failure.exit.code().into()
}

/// Known without the command line being right.
fn wants_json() -> bool {
    std::env::args_os().take_while(|word| word != "--").any(|word| word == "--json")
}

/// Whether a command line that is wrong was to be a check: its codes mean something else.
fn is_check() -> bool {
    std::env::args_os().nth(1).is_some_and(|word| word == "check")
}

/// Prints the help that was asked for, or what is wrong with the command line.
fn print(answer: &clap::Error) -> ExitCode {
    if answer.use_stderr() && wants_json() {
        output::complain_json(&Failure::new(Exit::Usage, answer.render().to_string()));
    } else if answer.use_stderr() {
        // As plain text: it repeats what was typed, which may be anything.
        output::complain(&answer.render().to_string());
    } else {
        // Who closed the other end has seen enough.
        let _ = answer.print();
    }
    ExitCode::from(u8::try_from(answer.exit_code()).unwrap_or(Exit::Usage.code()))
}

fn run(args: Args) -> anyhow::Result<ExitCode> {
    let settings = match (Settings::resolve(&args.global), &args.command) {
        // A daemon that runs is asked and told, whatever somebody does to its configuration meanwhile.
        (Err(failure), command) if command.is_for_daemon() => {
            output::complain(&format!("icbd: {failure}"));
            Settings::unconfigured(&args.global)
        }
        // What every server needs can be looked at all the same.
        (Err(failure), Command::Doctor) => {
            block_on(commands::doctor::look(&Settings::unconfigured(&args.global), Patient::Unknown(failure)))?;
            return Ok(ExitCode::SUCCESS);
        }
        (settings, _) => settings?,
    };
    if let Command::Master(_) | Command::Cache(_) = args.command {
        process::set_name();
        process::keep_freed_buffers();
        process::allow_open_files();
    }
    match args.command {
        Command::Master(args) => roles::master::run(&settings, &args)?,
        Command::Cache(args) => return roles::cache::run(&settings, &args),
        Command::Status { all } => block_on(commands::status::run(&settings, all))?,
        Command::Doctor => block_on(commands::doctor::run(&settings))?,
        Command::Check => return Ok(commands::check::run(&settings)),
        Command::Image(command) => block_on(commands::image::run(&settings, command))?,
        Command::Node(command) => block_on(commands::node::run(&settings, command))?,
        Command::Prefetch(command) => block_on(commands::prefetch::run(&settings, command))?,
        Command::Export(command) => block_on(commands::export::run(&settings, command))?,
        Command::Client(command) => block_on(commands::client::run(&settings, command))?,
        Command::Clone(command) => block_on(commands::clone::run(&settings, command))?,
        Command::Netboot(command) => block_on(commands::netboot::run(&settings, command))?,
        Command::Profile(command) => block_on(commands::profile::run(&settings, command))?,
        Command::Key(command) => commands::key::run(&settings, &command)?,
        Command::Config(command) => commands::config::run(&settings, command)?,
        Command::Store(command) => commands::store::run(&settings, command)?,
        Command::Bench(command) => commands::bench::run(&settings, command)?,
        Command::Generate { folder } => commands::generate::run(&folder)?,
        Command::Log { since } => block_on(commands::log::run(&settings, since))?,
        Command::SupportBundle { output } => commands::bundle::run(&settings, output)?,
    }
    Ok(ExitCode::SUCCESS)
}
