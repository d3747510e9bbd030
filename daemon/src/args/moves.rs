//! Moves in the life of versions, as they are typed.

use clap::Args;
use icbd_image::{ImageName, Timestamp, VersionId, VersionNumber};
use icbd_wire::Readiness;

use super::RepoArgs;
use crate::moves::WHY_BYTES_MAX;
use crate::orders::When;
use crate::output;
use crate::settings::Span;

/// What is said of every move.
#[derive(Debug, Clone, Args)]
pub(crate) struct MadeArgs {
    /// Why, for the audit log
    #[arg(short, long, default_value = "", value_name = "TEXT", hide_default_value = true, value_parser = why)]
    pub message: String,
    #[command(flatten)]
    pub repo: RepoArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DeployArgs {
    #[arg(value_name = "IMAGE@N")]
    pub version: VersionId,
    /// Not now but then: HH:MM, or 2026-03-01T02:00 with or without an offset
    #[arg(long, value_name = "TIME", value_parser = time, conflicts_with = "repo")]
    pub at: Option<String>,
    /// Not before every cache server has so much of it: what boots read, all, or all as a verified snapshot
    #[arg(long, value_name = "boot|complete|sealed", conflicts_with = "repo")]
    pub needs: Option<Readiness>,
    /// Not at the time that it was to be deployed at
    #[arg(long, conflicts_with_all = ["at", "needs", "repo"])]
    pub cancel: bool,
    #[command(flatten)]
    pub made: MadeArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    pub image: ImageName,
    /// The version to go to [default: the one that was deployed before]
    #[arg(long, value_name = "N")]
    pub to: Option<VersionNumber>,
    /// On this cache server alone, whether its master is there or not, until it is cleared
    #[arg(long, conflicts_with = "repo")]
    pub local: bool,
    /// Follow the master again
    #[arg(long, requires = "local", conflicts_with = "to")]
    pub clear: bool,
    #[command(flatten)]
    pub made: MadeArgs,
}

pub(super) fn why(text: &str) -> Result<String, String> {
    match text.len() {
        bytes if bytes > WHY_BYTES_MAX => Err(format!("it has {bytes} bytes; write at most {WHY_BYTES_MAX}")),
        _ => Ok(text.to_owned()),
    }
}

fn time(text: &str) -> Result<String, String> {
    let is_known = text.parse::<When>().is_ok();
    let message = "not a time such as 02:00 or 2026-03-01T02:00+01:00";
    if is_known { Ok(text.to_owned()) } else { Err(message.to_owned()) }
}

/// A time to come.
pub(super) fn until(text: &str) -> Result<Timestamp, String> {
    let message = "not a time such as 02:00 or 2026-03-01T02:00+01:00";
    let when = text.parse::<When>().map_err(|_| message.to_owned())?;
    let at = when.next(&jiff::tz::TimeZone::system()).map_err(|error| error.to_string())?;
    Ok(Timestamp { seconds: at.as_second(), nanoseconds: 0 })
}

/// A time that is past: so long ago, or a time of the day or the calendar.
pub(super) fn since(text: &str) -> Result<Timestamp, String> {
    if let Ok(Span(ago)) = text.parse() {
        let now = output::now();
        return Ok(Timestamp { seconds: now.seconds - ago.as_secs() as i64, ..now });
    }
    let when = text.parse::<When>().map_err(|_| "not a time such as 2h, 3d, 08:45 or 2026-03-01T08:45".to_owned())?;
    let at = when.last(&jiff::tz::TimeZone::system()).map_err(|error| error.to_string())?;
    Ok(Timestamp { seconds: at.as_second(), nanoseconds: 0 })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::args::Args;

    #[test]
    fn what_does_not_go_together_is_refused() {
        let check = |line: &str, says: &str| {
            let words = line.split(' ');
            let message = Args::try_parse_from(std::iter::once("icbd").chain(words)).unwrap_err().to_string();
            assert!(message.contains(says), "{line}: {message}");
        };
        check("image deploy lab@1 --at 25:00", "02:00");
        check("image deploy lab@1 --at 02:00 --cancel", "cannot be used with");
        check("image deploy lab@1 --at 02:00 --repo r", "cannot be used with");
        check("image rollback lab --clear", "--local");
        check("image rollback lab --local --clear --to 1", "cannot be used with");
        check("log --since yesterday", "2026-03-01T08:45");
        for line in ["log --since 2d", "log --since 08:45", "log --since 2026-03-01", "image rollback lab --local"] {
            assert!(Args::try_parse_from(std::iter::once("icbd").chain(line.split(' '))).is_ok(), "{line}");
        }
    }
}
