//! The paths under which a master, and a cache server, answer GET requests.
//!
//! Every resource has one spelling, which [`Resource`] displays, so that an HTTP cache between two nodes
//! keeps nothing twice. Paths of files are read in any percent-encoding; all else only as it is written.
//! The query is not part of a path: whoever has one cuts it off first.

use std::fmt;

use icbd_image::{ClientName, ClientNameError, FileIndex, ImageName, NameError, Root, Run, VersionId, VersionNumber};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

use crate::{Codec, CodecError};

/// Blocks that one request may ask for: 64 MiB, as long as a slow link takes for a few seconds.
pub const RUN_BLOCKS_MAX: u32 = 1024;

/// Block numbers end here: a file has at most 1 PiB.
const FILE_BLOCKS_MAX: u64 = 1 << 34;

/// Bytes of a file's path within its version: Linux takes no longer one in a call.
const PATH_BYTES_MAX: usize = 4095;

/// Bytes of one name in a path.
const NAME_BYTES_MAX: usize = 255;

/// Bytes of a whole URL path: a file's path with every byte percent-encoded, and what comes before it.
const URL_BYTES_MAX: usize = 3 * PATH_BYTES_MAX + 128;

/// What stands for a codec where data goes as packed as it lies on the disk.
const STORED: &str = "stored";

/// All but RFC 3986's unreserved characters and `/`.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// Something that a GET request can name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Resource {
    /// The listing: `/v1/images`.
    Images,
    /// One version as the listing shows it: `/v1/images/{image}/versions/{n}`.
    Version(VersionId),
    /// `/v1/heads/{root}`.
    Head(Root),
    /// A page of block hashes: `/v1/pages/{root}/{file}/{page}`.
    Page { root: Root, file: FileIndex, page: u64 },
    /// Frames of blocks: `/v1/versions/{root}/blocks/{file}/{first}-{last}.{codec}`, the last included.
    Blocks { run: Run, codec: Codec },
    /// The same, against blocks of a version that whoever asks has:
    /// `/v1/versions/{root}/against/{base}/{file}/{first}-{last}`.
    Matched { run: Run, base: Root },
    /// The stream that the file system makes of a version, as stored if there is no codec; or of what differs from a version
    /// that whoever asks has received: `/v1/streams/{root}.{codec}`, `/v1/streams/{root}/from/{base}/{lineage}.{codec}`.
    Stream { root: Root, base: Option<StreamBase>, codec: Option<Codec> },
    /// What is known of boots of a version: `/v1/profiles/{root}`. The only one with a root that changes.
    Profile(Root),
    /// What a workstation wrote over a version of an image: `/v1/clones/{image}/{client}.{codec}`. It changes.
    Written { image: ImageName, client: ClientName, codec: Codec },
    /// A file's bytes for those who know no icbd: `/files/{image}/{n}/{path}`, `current` for no number.
    File { image: ImageName, version: Option<VersionNumber>, path: Vec<u8> },
}

/// What a stream can be a difference from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamBase {
    pub root: Root,
    /// The name by which the file systems of both know its tree.
    pub lineage: [u8; 16],
}

/// Why a path names no resource.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("there is nothing at {0:?}")]
    Unknown(String),
    #[error("the path has {0} bytes, more than {URL_BYTES_MAX}")]
    Long(usize),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Client(#[from] ClientNameError),
    #[error(transparent)]
    Codec(#[from] CodecError),
    #[error("{0:?} is not a root; a root is 64 lower-case hexadecimal digits")]
    Root(String),
    #[error("{text:?} is not the number of a {what}")]
    Number { what: &'static str, text: String },
    #[error(
        "{0:?} is not a run; write FIRST-LAST.CODEC, or FIRST-LAST against a version, with at most {RUN_BLOCKS_MAX} blocks"
    )]
    Run(String),
    #[error("{0:?} is not the lineage of a tree; that is 32 lower-case hexadecimal digits")]
    Lineage(String),
    #[error("the file's path {0}")]
    Path(&'static str),
}

impl UrlError {
    /// The same path will never name anything.
    pub fn is_permanent(&self) -> bool {
        true
    }
}

impl Resource {
    /// Reads the path of a URL, without its query.
    pub fn parse(path: &str) -> Result<Resource, UrlError> {
        if path.len() > URL_BYTES_MAX {
            return Err(UrlError::Long(path.len()));
        }
        if let Some(rest) = path.strip_prefix("/files/") {
            return parse_file(rest).ok_or_else(|| UrlError::Unknown(shown(path)))?;
        }
        let parts: Vec<&str> = path.strip_prefix("/v1/").unwrap_or_default().splitn(6, '/').collect();
        match parts[..] {
            ["images"] => Ok(Resource::Images),
            ["images", image, "versions", number] => {
                Ok(Resource::Version(VersionId { image: image.parse()?, number: number.parse()? }))
            }
            ["heads", root] => Ok(Resource::Head(parse_root(root)?)),
            ["profiles", root] => Ok(Resource::Profile(parse_root(root)?)),
            ["pages", root, file, page] => Ok(Resource::Page {
                root: parse_root(root)?,
                file: parse_index(file)?,
                page: parse_number(page, "page", FILE_BLOCKS_MAX / icbd_image::PAGE_BLOCKS)?,
            }),
            ["versions", root, "blocks", file, run] => {
                let (root, file) = (parse_root(root)?, parse_index(file)?);
                let (range, codec) = run.split_once('.').ok_or_else(|| UrlError::Run(shown(run)))?;
                let (first, count) = parse_range(range)?;
                Ok(Resource::Blocks { run: Run { root, file, first, count }, codec: codec.parse()? })
            }
            ["versions", root, "against", base, file, range] => {
                let (root, base, file) = (parse_root(root)?, parse_root(base)?, parse_index(file)?);
                let (first, count) = parse_range(range)?;
                Ok(Resource::Matched { run: Run { root, file, first, count }, base })
            }
            ["clones", image, name] => {
                let (client, codec) = name.split_once('.').ok_or_else(|| UrlError::Unknown(shown(path)))?;
                Ok(Resource::Written { image: image.parse()?, client: client.parse()?, codec: codec.parse()? })
            }
            ["streams", name] => {
                let (root, codec) = name.split_once('.').ok_or_else(|| UrlError::Unknown(shown(path)))?;
                Ok(Resource::Stream { root: parse_root(root)?, base: None, codec: parse_stream(codec)? })
            }
            ["streams", root, "from", base, name] => {
                let (lineage, codec) = name.split_once('.').ok_or_else(|| UrlError::Unknown(shown(path)))?;
                let base = StreamBase { root: parse_root(base)?, lineage: parse_lineage(lineage)? };
                Ok(Resource::Stream { root: parse_root(root)?, base: Some(base), codec: parse_stream(codec)? })
            }
            _ => Err(UrlError::Unknown(shown(path))),
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Resource::Images => f.write_str("/v1/images"),
            Resource::Version(VersionId { image, number }) => write!(f, "/v1/images/{image}/versions/{number}"),
            Resource::Head(root) => write!(f, "/v1/heads/{root}"),
            Resource::Profile(root) => write!(f, "/v1/profiles/{root}"),
            Resource::Page { root, file, page } => write!(f, "/v1/pages/{root}/{file}/{page}"),
            Resource::Blocks { run: run @ Run { root, file, first, .. }, codec } => {
                write!(f, "/v1/versions/{root}/blocks/{file}/{first}-{}.{codec}", last_of(run))
            }
            Resource::Matched { run: run @ Run { root, file, first, .. }, base } => {
                write!(f, "/v1/versions/{root}/against/{base}/{file}/{first}-{}", last_of(run))
            }
            Resource::Stream { root, base, codec } => {
                write!(f, "/v1/streams/{root}")?;
                if let Some(StreamBase { root, lineage }) = base {
                    write!(f, "/from/{root}/{:032x}", u128::from_be_bytes(*lineage))?;
                }
                match codec {
                    Some(codec) => write!(f, ".{codec}"),
                    None => write!(f, ".{STORED}"),
                }
            }
            Resource::Written { image, client, codec } => write!(f, "/v1/clones/{image}/{client}.{codec}"),
            Resource::File { image, version, path } => {
                match version {
                    Some(number) => write!(f, "/files/{image}/{number}/")?,
                    None => write!(f, "/files/{image}/current/")?,
                }
                percent_encode(path, ENCODED).fmt(f)
            }
        }
    }
}

/// What follows `/files/`; `None` when it is too short to name a file.
fn parse_file(rest: &str) -> Option<Result<Resource, UrlError>> {
    let (image, rest) = rest.split_once('/')?;
    let (number, path) = rest.split_once('/')?;
    let parse = || {
        let version = if number == "current" { None } else { Some(number.parse()?) };
        Ok(Resource::File { image: image.parse()?, version, path: parse_path(path)? })
    };
    Some(parse())
}

/// Decodes a file's path and refuses what could lead out of a tree or into a folder by two ways.
fn parse_path(text: &str) -> Result<Vec<u8>, UrlError> {
    let escape_is_whole = |part: &str| part.len() >= 2 && part.as_bytes()[..2].iter().all(u8::is_ascii_hexdigit);
    if !text.split('%').skip(1).all(escape_is_whole) {
        return Err(UrlError::Path("has a '%' without two hexadecimal digits"));
    }
    if text.contains(['?', '#']) {
        return Err(UrlError::Path("has a '?' or '#' in it; write %3F or %23"));
    }
    // Decoded first, checked then: an encoded ".." or "/" is the same as a plain one.
    let path: Vec<u8> = percent_decode_str(text).collect();
    if path.len() > PATH_BYTES_MAX {
        return Err(UrlError::Path("is longer than 4095 bytes"));
    }
    if path.contains(&0) {
        return Err(UrlError::Path("has a zero byte in it"));
    }
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" => return Err(UrlError::Path("is empty, or has an empty name in it")),
            b"." | b".." => return Err(UrlError::Path("has a '.' or '..' in it")),
            _ if name.len() > NAME_BYTES_MAX => return Err(UrlError::Path("has a name longer than 255 bytes in it")),
            _ => {}
        }
    }
    Ok(path)
}

fn parse_root(text: &str) -> Result<Root, UrlError> {
    text.parse().map_err(|_| UrlError::Root(shown(text)))
}

/// How a stream is packed; `None` for as it is stored.
fn parse_stream(text: &str) -> Result<Option<Codec>, UrlError> {
    if text == STORED { Ok(None) } else { Ok(Some(text.parse()?)) }
}

fn parse_lineage(text: &str) -> Result<[u8; 16], UrlError> {
    let plain = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let parsed = plain.then(|| u128::from_str_radix(text, 16).ok()).flatten();
    parsed.map(u128::to_be_bytes).ok_or_else(|| UrlError::Lineage(shown(text)))
}

fn parse_index(text: &str) -> Result<FileIndex, UrlError> {
    let number = parse_number(text, "file", u64::from(FileIndex::MAX) + 1)?;
    let index = u32::try_from(number).ok().and_then(FileIndex::new);
    index.ok_or_else(|| UrlError::Number { what: "file", text: shown(text) })
}

fn last_of(run: &Run) -> u64 {
    run.first + u64::from(run.count.saturating_sub(1))
}

/// `{first}-{last}` as first block and number of blocks.
fn parse_range(text: &str) -> Result<(u64, u32), UrlError> {
    let refuse = || UrlError::Run(shown(text));
    let (first, last) = text.split_once('-').ok_or_else(refuse)?;
    let first = parse_number(first, "block", FILE_BLOCKS_MAX)?;
    let last = parse_number(last, "block", FILE_BLOCKS_MAX)?;
    let count = last.checked_sub(first).map(|more| more + 1).and_then(|count| u32::try_from(count).ok());
    let count = count.filter(|count| *count <= RUN_BLOCKS_MAX).ok_or_else(refuse)?;
    Ok((first, count))
}

/// A decimal number below `end`, without sign or leading zeros: one spelling each.
fn parse_number(text: &str, what: &'static str, end: u64) -> Result<u64, UrlError> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    let number = plain.then(|| text.parse().ok()).flatten().filter(|number| *number < end);
    number.ok_or_else(|| UrlError::Number { what, text: shown(text) })
}

/// As much of a text as an error shows.
fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests;
