//! `mount.icbd`: what mount(8) runs for file systems of type `icbd`, on a command line or in /etc/fstab.
//!
//! The options are read (`options`), with the rest of the line they make a plan (`plan`), and the plan is carried out
//! (`mount`): a daemon that runs already is attached to, else the only one is started. All else is icbd's own; nothing of
//! its source is used here.

mod failure;
mod icbd;
mod mount;
mod mounts;
mod options;
mod plan;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use failure::{Exit, Failure};
use options::{Options, Unknown, VALUED};
use plan::Plan;

/// Mounts the images of an icbd master.
///
/// Run by mount(8) for the type icbd. It attaches to the icbd that serves DIR already, or starts one, and returns when the
/// mount is there. A daemon that was started so ends when DIR is unmounted.
#[derive(Debug, Parser)]
#[command(name = "mount.icbd", version, disable_version_flag = true)]
struct Args {
    /// The master: HOST[:PORT] or a URL; several with commas, in order of preference
    #[arg(value_name = "MASTER")]
    spec: String,
    /// Where to mount
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Options, separated by commas; see below
    #[arg(short, value_name = "OPTIONS")]
    options: Vec<String>,
    /// Only look whether it could be mounted; change nothing
    #[arg(short)]
    fake: bool,
    /// Say what is done
    #[arg(short)]
    verbose: bool,
    /// Pass over options that are not known
    #[arg(short)]
    sloppy: bool,
    /// Accepted, without meaning: there is no mtab
    #[arg(short)]
    no_mtab: bool,
    /// Not supported: run mount in that namespace instead
    #[arg(short = 'N', value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// The type, as mount(8) names it
    #[arg(short = 't', value_name = "TYPE", value_parser = ["icbd", "fuse.icbd"])]
    kind: Option<String>,
}

fn main() -> ExitCode {
    // How the package gets its manual page.
    if std::env::args_os().nth(1).is_some_and(|word| word == "--manual") {
        return manual();
    }
    let args = match command().try_get_matches().and_then(|matches| clap::FromArgMatches::from_arg_matches(&matches)) {
        Ok(args) => args,
        Err(answer) => {
            // Who closed the other end has seen enough.
            let _ = answer.print();
            return ExitCode::from(if answer.use_stderr() { Exit::Usage as u8 } else { 0 });
        }
    };
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("mount.icbd: {failure}");
            ExitCode::from(failure.exit as u8)
        }
    }
}

fn run(args: Args) -> Result<(), Failure> {
    if args.namespace.is_some() {
        let message = "-N is not supported: the daemon would be in another namespace than its mount; use nsenter(1)";
        return Err(Failure::new(Exit::Usage, message));
    }
    let unknown = if args.sloppy { Unknown::Ignore } else { Unknown::Refuse };
    let usage = |error: String| Failure::new(Exit::Usage, error);
    let options = Options::parse(&args.options.join(","), unknown).map_err(|error| usage(error.to_string()))?;
    let masters = plan::masters(&args.spec).map_err(usage)?;
    let mount = mounts::canonical(&args.dir)
        .map_err(|error| Failure::new(Exit::Mount, format!("cannot mount on {}: {error}", args.dir.display())))?;
    let plan = Plan { masters, mount, options };
    let say = |text: String| {
        if args.verbose {
            eprintln!("mount.icbd: {text}");
        }
    };
    if args.fake {
        say(format!("would run icbd {}", mount::shown(&plan)));
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(usage("only root can mount; an icbd mount needs no options of a user's".to_owned()));
    }
    // What a daemon makes is for nobody else, as under its unit.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    mount::mount(&plan, &icbd::program(), &say)
}

/// The command line with what is known of options.
fn command() -> clap::Command {
    let width = VALUED.iter().map(|(name, value, _)| name.len() + value.len() + 1).max().unwrap_or(0);
    let lines = VALUED.iter().map(|(name, value, help)| format!("  {:width$}  {help}\n", format!("{name}={value}")));
    let more = format!(
        "Options:\n{}  {:width$}  read complete files through the daemon, too\n\n\
         ro, _netdev, nofail, noauto, x-systemd.* and their like mean what they mean everywhere. rw is accepted, as mount(8) \
         passes it on, and the mount is read-only.\n\nWhere the unit icbd-cache is enabled, it is the one that is started; its configuration then has to name the \
         same master, and a line of /etc/fstab needs _netdev. \
         A line that needs neither unit nor configuration:\n\n  img:7070  /icbd  icbd  store=/var/lib/icbd,_netdev  0 0\n\n\
         Exit codes are those of mount(8): 1 usage, 2 system, 8 interrupted, 32 failed.",
        lines.collect::<String>(),
        "nopassthrough"
    );
    Args::command().after_help(more)
}

fn manual() -> ExitCode {
    let page = clap_mangen::Man::new(command()).section("8").manual("icbd");
    match page.render(&mut std::io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mount.icbd: cannot write the manual page: {error}");
            ExitCode::from(Exit::System as u8)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Args {
        Args::try_parse_from([&["mount.icbd"], words].concat()).unwrap()
    }

    /// As libmount writes it: the operands first.
    #[test]
    fn the_line_of_mount_is_understood() {
        command().debug_assert();
        let args = parse(&["img:7070", "/icbd", "-o", "rw,store=/s"]);
        assert_eq!(
            (&*args.spec, args.dir, &args.options[..]),
            ("img:7070", "/icbd".into(), &["rw,store=/s".to_owned()][..])
        );
        let args = parse(&["img", "/icbd", "-sfnv", "-o", "ro", "-t", "icbd"]);
        assert!(args.sloppy && args.fake && args.no_mtab && args.verbose && args.kind.is_some());
        let fails = |words: &[&str]| Args::try_parse_from([&["mount.icbd"], words].concat()).is_err();
        assert!(fails(&["img"]) && fails(&["img", "/icbd", "-t", "nfs"]) && fails(&["img", "/icbd", "more"]));
    }

    #[test]
    fn the_help_names_every_option() {
        let help = command().render_help().to_string();
        assert!(VALUED.iter().all(|(name, value, _)| help.contains(&format!("{name}={value}"))), "{help}");
    }
}
