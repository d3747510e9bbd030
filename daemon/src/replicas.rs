//! Replicating a version from another master, as it travels between command and daemon.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use icbd_fetch::{HttpSource, TimeOuts};
use icbd_image::{ImageRef, Root, VersionId};
use icbd_wire::{Codec, CodecError};
use serde::{Deserialize, Serialize};

use crate::failure::{Exit, Failure};
use crate::output::bytes;

/// What is to be fetched from where.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ReplicateSpec {
    pub version: ImageRef,
    /// The other master.
    pub from: String,
    pub stream: StreamKind,
    /// How it travels; without it blocks do as the measured speed suggests, and streams by Zstandard.
    pub compress: Option<Compress>,
    /// Through where the other master is reached.
    #[serde(default)]
    pub via: Option<Via>,
    /// The socket at this end of that way, which the command holds open.
    #[serde(default)]
    pub socket: Option<PathBuf>,
}

/// `ssh:[USER@]HOST[:PORT]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Via {
    /// As SSH takes it: a host, a name of its configuration, or either with a user.
    pub login: String,
    pub port: Option<u16>,
}

impl FromStr for Via {
    type Err = String;

    fn from_str(text: &str) -> Result<Via, String> {
        let wrong = || format!("{text:?} is no way to a master; write ssh:HOST, ssh:USER@HOST or ssh:USER@HOST:PORT");
        let rest = text.strip_prefix("ssh:").ok_or_else(wrong)?;
        let (login, port) = match rest.rsplit_once(':') {
            Some((login, port)) => (login, Some(port.parse().map_err(|_| wrong())?)),
            None => (rest, None),
        };
        let is_word = |c: char| c.is_ascii_alphanumeric() || "@.-_%".contains(c);
        // One that begins with a dash would be an option.
        let is_name = |name: &str| !name.is_empty() && !name.starts_with('-') && name.chars().all(is_word);
        if !login.split('@').all(is_name) || port == Some(0) {
            return Err(wrong());
        }
        Ok(Via { login: login.to_owned(), port })
    }
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ssh:{}", self.login)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// What travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum StreamKind {
    /// Blocks that are not here, each compared with its hash
    Blocks,
    /// The file system's own stream, between repositories on btrfs that trust each other
    Btrfs,
}

/// How it is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Compress {
    /// As packed as it lies on the source's disk.
    Stored,
    #[serde(untagged)]
    By(Codec),
}

impl FromStr for Compress {
    type Err = String;

    fn from_str(text: &str) -> Result<Compress, String> {
        if text == "stored" {
            return Ok(Compress::Stored);
        }
        text.parse().map(Compress::By).map_err(|error: CodecError| format!("{error}, or for btrfs \"stored\""))
    }
}

impl fmt::Display for Compress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Compress::Stored => f.write_str("stored"),
            Compress::By(codec) => codec.fmt(f),
        }
    }
}

/// The host and port of a URL.
pub(crate) fn authority(url: &str) -> Result<String, Failure> {
    let source = HttpSource::new(url, TimeOuts::default());
    let source = source.map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    Ok(source.authority())
}

impl ReplicateSpec {
    /// The other master's host and port.
    pub(crate) fn target(&self) -> Result<String, Failure> {
        authority(&self.from)
    }

    /// What cannot be, whatever is there.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        match (self.stream, self.compress) {
            (StreamKind::Blocks, Some(Compress::Stored)) => {
                let message =
                    "--compress stored is for --stream btrfs; blocks travel by none, lz4, zstd, zstd6, zlib or snappy";
                Err(Failure::new(Exit::Usage, message))
            }
            _ => Ok(()),
        }
    }
}

/// A version that is here now.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ReplicateResult {
    pub version: VersionId,
    pub root: Root,
    /// Whether it was not here before.
    pub is_new: bool,
    pub data_bytes: u64,
    /// Of its blocks, those that were not here.
    pub fetched_bytes: u64,
    /// As they travelled.
    pub received_bytes: u64,
    pub seconds: f64,
}

/// The command, as it is written in the audit log.
impl fmt::Display for ReplicateSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "image replicate {} --from {}", self.version, self.from)?;
        if self.stream == StreamKind::Btrfs {
            f.write_str(" --stream btrfs")?;
        }
        self.compress.as_ref().map_or(Ok(()), |codec| write!(f, " --compress {codec}"))?;
        self.via.as_ref().map_or(Ok(()), |via| write!(f, " --via {via}"))
    }
}

impl ReplicateResult {
    pub(crate) fn words(&self) -> String {
        let ReplicateResult { version, data_bytes, fetched_bytes, received_bytes, seconds, .. } = self;
        if !self.is_new {
            return format!("{version} is here already, and is the same; nothing was fetched");
        }
        let rate = (*received_bytes as f64 / seconds.max(0.001)) as u64;
        format!(
            "{version}: {} of {} were not here, {} over the line in {seconds:.1} s ({}/s); it is ready",
            bytes(*fetched_bytes),
            bytes(*data_bytes),
            bytes(*received_bytes),
            bytes(rate)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_is_a_login_and_never_an_option() {
        for text in ["ssh:master", "ssh:backup@master.example", "ssh:backup@master:2222"] {
            assert_eq!(text.parse::<Via>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "master",
            "ssh:",
            "ssh:-oProxyCommand=x",
            "ssh:a@-b",
            "ssh:a@",
            "ssh:a b",
            "ssh:a:0",
            "ssh:a:x",
            "tls:a",
        ] {
            assert!(text.parse::<Via>().is_err(), "{text}");
        }
    }
}
