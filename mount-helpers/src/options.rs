//! What stands after `-o`, or in the fourth field of /etc/fstab, as what is meant by it. Pure: nothing is looked up.
//!
//! Options of mount(8) itself are accepted where they say nothing else than what an icbd mount is: read-only, without
//! devices and set-uid files. What would be another mount is refused with the reason, and what is not known with near words.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a mount may take to be there.
const TIMEOUT: Duration = Duration::from_secs(60);
/// What an administrator would wait for; more is a typing error.
const TIMEOUT_SECONDS_MAX: u64 = 24 * 3600;
/// Where icbd listens for commands.
const SOCKET: &str = "/run/icbd/cache.sock";

/// The options with a value, and what they are; in the order in which they are printed.
pub(crate) const VALUED: &[(&str, &str, &str)] = &[
    ("store", "DIR", "where blocks are kept; without it as the configuration says, or /var/lib/icbd"),
    ("config", "FILE", "the configuration; without it /etc/icbd/icbd.toml, if there is one"),
    (
        "socket",
        "PATH",
        "the daemon's control socket; without it /run/icbd/cache.sock. A second mount needs another one",
    ),
    ("codec", "CODEC", "how blocks travel; without it as the measured speed suggests"),
    ("listen", "ADDRESS:PORT", "serve there, too, read-only; may be repeated"),
    ("allow", "CIDR", "let this network connect there; may be repeated"),
    (
        "log",
        "FILE",
        "where a daemon that is started writes its log; without it /var/log/icbd-cache.log, or the journal",
    ),
    ("timeout", "SECONDS", "how long the mount may take to be there; without it 60"),
];
const NO_PASSTHROUGH: &str = "nopassthrough";

/// What mount(8), systemd and fstab mean for themselves, or what every icbd mount is anyway.
const INERT: &[&str] = &[
    "defaults",
    "ro",
    "rw",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "nousers",
    "owner",
    "noowner",
    "group",
    "nogroup",
    "fail",
    "nofail",
    "_netdev",
    "nosuid",
    "nodev",
    "exec",
    "suid",
    "dev",
    "async",
    "atime",
    "noatime",
    "relatime",
    "norelatime",
    "diratime",
    "nodiratime",
    "nostrictatime",
    "nolazytime",
    "noiversion",
    "loud",
    "silent",
    "nomand",
];
/// Pairs of which a line may name one.
const OPPOSITES: &[(&str, &str)] = &[
    ("ro", "rw"),
    ("auto", "noauto"),
    ("suid", "nosuid"),
    ("dev", "nodev"),
    ("user", "nouser"),
    ("users", "nousers"),
    ("atime", "noatime"),
    ("relatime", "norelatime"),
    ("diratime", "nodiratime"),
    ("loud", "silent"),
];
const REMOUNT: &str = "remount";
/// What cannot be had, and why.
const REFUSED: &[(&str, &str)] = &[
    (
        REMOUNT,
        "a mount of icbd is read-only for good and has nothing to change; change the daemon's configuration and run `icbd config reload`",
    ),
    ("bind", "it names a folder, not a master; leave the type away"),
    ("rbind", "it names a folder, not a master; leave the type away"),
    ("move", "it names a folder, not a master; leave the type away"),
    (
        "noexec",
        "programs of an image can be run from it; mount(8) cannot change that, but `mount -o bind,noexec` on top of it can",
    ),
    ("nosymfollow", "links of an image are followed; `mount -o bind,nosymfollow` on top of it can change that"),
    ("sync", "nothing is written to the mount"),
    ("dirsync", "nothing is written to the mount"),
    ("strictatime", "nothing is written to the mount, times of access neither"),
    ("lazytime", "nothing is written to the mount, times of access neither"),
    ("iversion", "nothing is written to the mount"),
    ("mand", "nobody can lock what nobody can write"),
    ("loop", "it names a file, not a master"),
    ("allow_other", "everybody may read the mount anyway; file modes hold"),
];

/// With these, mount(8) passes `noexec` on that nobody wrote.
const IMPLY_NOEXEC: &[&str] = &["user", "users", "owner", "group"];

/// What the options come to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Options {
    pub store: Option<PathBuf>,
    pub config: Option<PathBuf>,
    pub socket: Option<PathBuf>,
    pub codec: Option<String>,
    pub listen: Vec<SocketAddr>,
    pub allow: Vec<String>,
    pub log: Option<PathBuf>,
    pub timeout_seconds: Option<u64>,
    pub no_passthrough: bool,
}

/// Why options cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OptionsError {
    #[error("there is no option {name:?}{hint}; `mount.icbd --help` lists them")]
    Unknown { name: String, hint: String },
    #[error("the options {0:?} and {1:?} contradict each other; leave one of them away")]
    Contradiction(String, String),
    #[error("the option {name:?} cannot be had: {why}")]
    Refused { name: &'static str, why: &'static str },
    #[error("the option {name:?} needs a value: {name}={what}")]
    Valueless { name: &'static str, what: &'static str },
    #[error("the option {name:?} takes no value, not {value:?}")]
    Valued { name: String, value: String },
    #[error("{name}={value:?} is wrong: {why}")]
    Value { name: &'static str, value: String, why: &'static str },
    #[error("quotation marks have to enclose a whole value, such as store=\"/srv/a,b\"; those in {0:?} do not")]
    Quotes(String),
}

/// Whether unknown options are an error (mount's `-s`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unknown {
    Refuse,
    Ignore,
}

impl Options {
    /// Reads options that are separated by commas; a value with a comma stands in quotation marks.
    pub(crate) fn parse(text: &str, unknown: Unknown) -> Result<Options, OptionsError> {
        let mut options = Options::default();
        let mut seen: Vec<&str> = Vec::new();
        let parts = split(text)?;
        // Beside it stands what the kernel says of the mount, which nobody wrote.
        let change = REFUSED.iter().find(|(known, _)| *known == REMOUNT && parts.contains(known));
        if let Some((name, why)) = change {
            return Err(OptionsError::Refused { name, why });
        }
        for &option in &parts {
            let (name, value) = match option.split_once('=') {
                Some((name, value)) => (name, Some(unquoted(value))),
                None => (option, None),
            };
            if name.contains('"') || value.is_some_and(|value| value.contains('"')) {
                return Err(OptionsError::Quotes(option.to_owned()));
            }
            if let Some((name, what, _)) = VALUED.iter().find(|(known, ..)| *known == name) {
                let value = value.filter(|value| !value.is_empty());
                options.set(name, value.ok_or(OptionsError::Valueless { name, what })?)?;
            } else if let Some((name, why)) = REFUSED.iter().find(|(known, _)| *known == name) {
                let is_implied = *name == "noexec" && parts.iter().any(|other| IMPLY_NOEXEC.contains(other));
                if !is_implied {
                    return Err(OptionsError::Refused { name, why });
                }
            } else if name == NO_PASSTHROUGH || INERT.contains(&name) {
                // `user=alice` is what mount(8) makes of `user`.
                if let Some(value) = value.filter(|_| name != "user") {
                    return Err(OptionsError::Valued { name: name.to_owned(), value: value.to_owned() });
                }
                options.no_passthrough |= name == NO_PASSTHROUGH;
                check_opposites(name, &seen)?;
                seen.push(name);
            } else if !is_for_others(name) && unknown == Unknown::Refuse {
                return Err(OptionsError::Unknown { name: name.to_owned(), hint: hint(name) });
            }
        }
        Ok(options)
    }

    pub(crate) fn socket(&self) -> &Path {
        self.socket.as_deref().unwrap_or(Path::new(SOCKET))
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout_seconds.map_or(TIMEOUT, Duration::from_secs)
    }

    /// Those that only a daemon which is started heeds.
    pub(crate) fn of_a_start(&self) -> Vec<&'static str> {
        let are_set = [
            ("config", self.config.is_some()),
            ("codec", self.codec.is_some()),
            ("listen", !self.listen.is_empty()),
            ("allow", !self.allow.is_empty()),
            ("log", self.log.is_some()),
            (NO_PASSTHROUGH, self.no_passthrough),
        ];
        are_set.into_iter().filter(|(_, is_set)| *is_set).map(|(name, _)| name).collect()
    }

    fn set(&mut self, name: &'static str, value: &str) -> Result<(), OptionsError> {
        let wrong = |why| OptionsError::Value { name, value: value.to_owned(), why };
        let path = |option: &mut Option<PathBuf>| {
            let value = absolute(value).ok_or(wrong(ABSOLUTE))?;
            once(name, option, value, |path| path.display().to_string())
        };
        match name {
            "store" => path(&mut self.store),
            "config" => path(&mut self.config),
            "socket" => path(&mut self.socket),
            "log" => path(&mut self.log),
            "codec" => once(name, &mut self.codec, value.to_owned(), Clone::clone),
            "timeout" => {
                let seconds = value.parse().ok().filter(|seconds| (1..=TIMEOUT_SECONDS_MAX).contains(seconds));
                let why = "write seconds, from 1 to 86400";
                once(name, &mut self.timeout_seconds, seconds.ok_or(wrong(why))?, u64::to_string)
            }
            "listen" => {
                self.listen.push(value.parse().map_err(|_| wrong("write ADDRESS:PORT, such as 0.0.0.0:7071"))?);
                Ok(())
            }
            _ => {
                self.allow.push(network(value).ok_or(wrong("write ADDRESS/BITS, such as 10.1.0.0/16"))?);
                Ok(())
            }
        }
    }
}

/// What is printed parses to the same.
impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths = [("store", &self.store), ("config", &self.config), ("socket", &self.socket), ("log", &self.log)];
        let paths = paths.into_iter().filter_map(|(name, path)| Some((name, path.as_ref()?.display().to_string())));
        let mut all: Vec<(&str, String)> = paths.collect();
        all.extend(self.codec.iter().map(|codec| ("codec", codec.clone())));
        all.extend(self.listen.iter().map(|address| ("listen", address.to_string())));
        all.extend(self.allow.iter().map(|network| ("allow", network.clone())));
        all.extend(self.timeout_seconds.iter().map(|seconds| ("timeout", seconds.to_string())));
        let quote = |value: &str| if value.contains(',') { format!("\"{value}\"") } else { value.to_owned() };
        let mut words: Vec<String> = all.iter().map(|(name, value)| format!("{name}={}", quote(value))).collect();
        words.extend(self.no_passthrough.then(|| NO_PASSTHROUGH.to_owned()));
        f.write_str(&words.join(","))
    }
}

const ABSOLUTE: &str = "write a path from the root; a mount is made from any folder, also at boot";

fn absolute(value: &str) -> Option<PathBuf> {
    Some(PathBuf::from(value)).filter(|path| path.is_absolute())
}

/// Takes `value` for an option that may be said once; twice the same is once.
fn once<T: PartialEq>(
    name: &str,
    option: &mut Option<T>,
    value: T,
    shown: impl Fn(&T) -> String,
) -> Result<(), OptionsError> {
    match option {
        Some(earlier) if *earlier != value => {
            Err(OptionsError::Contradiction(format!("{name}={}", shown(earlier)), format!("{name}={}", shown(&value))))
        }
        _ => {
            *option = Some(value);
            Ok(())
        }
    }
}

fn network(value: &str) -> Option<String> {
    let (address, bits) = value.split_once('/')?;
    let bits_max = if address.parse::<IpAddr>().ok()?.is_ipv4() { 32 } else { 128 };
    bits.parse::<u8>().is_ok_and(|bits| bits <= bits_max).then(|| value.to_owned())
}

/// What mount(8) and systemd keep for themselves, and comments.
fn is_for_others(name: &str) -> bool {
    name.is_empty() || name.starts_with("x-") || name.starts_with("X-") || name == "comment"
}

fn check_opposites(name: &str, seen: &[&str]) -> Result<(), OptionsError> {
    let opposite = |(one, other): &(&'static str, &'static str)| match name {
        _ if name == *one => Some(*other),
        _ if name == *other => Some(*one),
        _ => None,
    };
    match OPPOSITES.iter().filter_map(opposite).find(|opposite| seen.contains(opposite)) {
        Some(opposite) => Err(OptionsError::Contradiction(opposite.to_owned(), name.to_owned())),
        None => Ok(()),
    }
}

/// Divides at commas outside of quotation marks.
fn split(text: &str) -> Result<Vec<&str>, OptionsError> {
    let (mut parts, mut from, mut is_quoted) = (Vec::new(), 0, false);
    for (at, letter) in text.char_indices() {
        match letter {
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => {
                parts.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[from..]);
    if is_quoted { Err(OptionsError::Quotes(text[from..].to_owned())) } else { Ok(parts) }
}

fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}

/// `; did you mean "store"?`, or nothing.
fn hint(name: &str) -> String {
    let known = VALUED.iter().map(|(known, ..)| *known).chain([NO_PASSTHROUGH]).chain(INERT.iter().copied());
    // A third of a word may be wrong.
    let distance_max = (name.chars().count() / 3).clamp(1, 4);
    let near = known.map(|known| (strsim::osa_distance(name, known), known)).min();
    match near.filter(|(distance, _)| *distance <= distance_max) {
        Some((_, word)) => format!("; did you mean {word:?}?"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests;
