//! A recorded boot: which ranges of a disk a machine read, in order, and how long it thought before each.
//!
//! The file is text, so that a version control system can show and compress it:
//!
//! ```text
//! icbd-trace 1                  the first line: what this is, and the version of the format
//! disk-bytes 1610612736         size of the disk that it was recorded from
//! disk-blake3 4f0c…             its contents, in hex (optional)
//! # a comment
//! 2312 1048576 512              microseconds of thought, offset, length: one line a read
//! ```
//!
//! Thought is the time since the previous read was answered, or 0 when reads overlapped. Everything is checked here:
//! a [`Trace`] has at least one read, none of them empty, none beyond the disk.

use std::fmt::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A boot has some thousands of reads; a file of more than this is something else.
const READS_MAX: usize = 1_000_000;
/// No guest asks for more at once: kernels split at 1 to 4 MiB.
const READ_BYTES_MAX: u64 = 16 << 20;
/// What a trace with the most reads takes, with room to spare.
const FILE_BYTES_MAX: u64 = 64 << 20;
const HEADER: &str = "icbd-trace 1";

/// One read of the boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read {
    /// Time between the answer to the read before and this one.
    pub think: Duration,
    pub offset: u64,
    pub bytes: u64,
}

/// A recorded boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    disk_bytes: u64,
    disk_blake3: Option<String>,
    reads: Vec<Read>,
}

#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error("there is no trace {0}")]
    Absent(PathBuf),
    #[error("reading {path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{name}: {what}")]
    Malformed { name: String, what: String },
}

impl TraceError {
    pub fn is_permanent(&self) -> bool {
        !matches!(self, TraceError::Io { .. })
    }
}

impl Trace {
    /// A boot of a Debian 12 machine by BIOS, from a disk of 1.5 GiB.
    pub fn debian() -> Trace {
        let text = include_str!("../../perf/traces/debian-12.trace");
        Trace::parse("the built-in trace", text).expect("a test parses it")
    }

    /// Checks `reads` of a disk of `disk_bytes` with contents `disk_blake3`.
    pub fn new(disk_bytes: u64, disk_blake3: Option<String>, reads: Vec<Read>) -> Result<Trace, String> {
        if reads.is_empty() {
            return Err("the trace is empty: it has no read".to_owned());
        }
        if reads.len() > READS_MAX {
            return Err(format!("more than {READS_MAX} reads"));
        }
        for (at, read) in reads.iter().enumerate() {
            let end = read.offset.checked_add(read.bytes);
            if read.bytes == 0 || read.bytes > READ_BYTES_MAX {
                return Err(format!("read {} is of {} bytes; 1 to {READ_BYTES_MAX} can be", at + 1, read.bytes));
            }
            if end.is_none_or(|end| end > disk_bytes) {
                return Err(format!(
                    "read {} of {} bytes at {} is beyond the disk of {disk_bytes} bytes",
                    at + 1,
                    read.bytes,
                    read.offset
                ));
            }
        }
        Ok(Trace { disk_bytes, disk_blake3, reads })
    }

    pub fn load(path: &Path) -> Result<Trace, TraceError> {
        let io = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::NotFound => TraceError::Absent(path.to_owned()),
            _ => TraceError::Io { path: path.to_owned(), source },
        };
        let name = path.display().to_string();
        let bytes = std::fs::metadata(path).map_err(io)?.len();
        if bytes > FILE_BYTES_MAX {
            let what = format!("{bytes} bytes are more than a trace has (at most {FILE_BYTES_MAX})");
            return Err(TraceError::Malformed { name, what });
        }
        let text = std::fs::read(path).map_err(io)?;
        let Ok(text) = String::from_utf8(text) else {
            return Err(TraceError::Malformed { name, what: "it is no text, so no trace".to_owned() });
        };
        Trace::parse(&name, &text)
    }

    /// Reads the text of a trace; `name` is what errors call it.
    pub fn parse(name: &str, text: &str) -> Result<Trace, TraceError> {
        Trace::parse_lines(text).map_err(|what| TraceError::Malformed { name: name.to_owned(), what })
    }

    fn parse_lines(text: &str) -> Result<Trace, String> {
        let mut lines = text.lines().enumerate();
        match lines.next() {
            None => return Err("the trace is empty".to_owned()),
            Some((_, HEADER)) => {}
            Some(_) => return Err(format!("its first line is not {HEADER:?}: no trace, or of another version")),
        }
        let (mut disk_bytes, mut disk_blake3, mut reads) = (None, None, Vec::new());
        for (at, line) in lines.map(|(at, line)| (at + 1, line.trim())) {
            let wrong = || format!("line {at} is not understood: {:?}", line.chars().take(60).collect::<String>());
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            match words[..] {
                [] => {}
                [word, ..] if word.starts_with('#') => {}
                ["disk-bytes", bytes] => disk_bytes = Some(bytes.parse().map_err(|_| wrong())?),
                ["disk-blake3", hash] => disk_blake3 = Some(hash.to_owned()),
                [think, offset, bytes] => {
                    let number = |word: &str| word.parse::<u64>().map_err(|_| wrong());
                    let think = Duration::from_micros(number(think)?);
                    reads.push(Read { think, offset: number(offset)?, bytes: number(bytes)? });
                }
                _ => return Err(wrong()),
            }
        }
        let disk_bytes = disk_bytes.ok_or("it lacks a line \"disk-bytes N\"")?;
        Trace::new(disk_bytes, disk_blake3, reads)
    }

    pub fn reads(&self) -> &[Read] {
        &self.reads
    }

    /// Size of the disk that was recorded.
    pub fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// Contents of the disk that was recorded: BLAKE3 in hex.
    pub fn disk_blake3(&self) -> Option<&str> {
        self.disk_blake3.as_deref()
    }

    /// Where the farthest read ends.
    pub fn end(&self) -> u64 {
        self.reads.iter().map(|read| read.offset + read.bytes).max().unwrap_or(0)
    }

    /// What one client reads, in bytes; what is read twice counts twice.
    pub fn bytes(&self) -> u64 {
        self.reads.iter().map(|read| read.bytes).sum()
    }

    /// How long one client thinks in all.
    pub fn think(&self) -> Duration {
        self.reads.iter().map(|read| read.think).sum()
    }
}

/// The text of the file, without comments.
impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}\ndisk-bytes {}", self.disk_bytes)?;
        if let Some(hash) = &self.disk_blake3 {
            writeln!(f, "disk-blake3 {hash}")?;
        }
        let mut text = String::new();
        for Read { think, offset, bytes } in &self.reads {
            writeln!(text, "{} {offset} {bytes}", think.as_micros())?;
        }
        f.write_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_built_in_trace_is_a_boot() {
        let trace = Trace::debian();
        assert!(trace.reads().len() > 1000 && trace.bytes() > 50 << 20, "{} reads", trace.reads().len());
        assert!(trace.end() <= trace.disk_bytes() && trace.think() > Duration::from_secs(5));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |text: &str, says: &str| {
            let error = Trace::parse("t", text).unwrap_err().to_string();
            assert!(error.contains(says) && error.starts_with("t: "), "{error}");
        };
        check("", "empty");
        check("icbd-trace 2\n", "another version");
        check("icbd-trace 1\n0 0 512\n", "disk-bytes");
        check("icbd-trace 1\ndisk-bytes 4096\n", "has no read");
        check("icbd-trace 1\ndisk-bytes 4096\n0 0\n", "line 3");
        check("icbd-trace 1\ndisk-bytes 4096\n0 0 -1\n", "line 3");
        check("icbd-trace 1\ndisk-bytes 4096\n0 0 0\n", "read 1 is of 0 bytes");
        check("icbd-trace 1\ndisk-bytes 4096\n0 0 512\n0 4096 1\n", "read 2 of 1 bytes at 4096 is beyond");
        check("icbd-trace 1\ndisk-bytes 4096\n0 18446744073709551615 2\n", "beyond");
        check("icbd-trace 1\ndisk-bytes 99999999999\n0 0 99999999\n", "16777216");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(reads in prop::collection::vec((0u64..1 << 40, 0u64..1 << 30, 1u64..1 << 20), 1..50)) {
            let reads = reads
                .into_iter()
                .map(|(think, offset, bytes)| Read { think: Duration::from_micros(think), offset, bytes })
                .collect();
            let trace = Trace::new(1 << 40, Some("ab".into()), reads).unwrap();
            prop_assert_eq!(Trace::parse("t", &trace.to_string()).unwrap(), trace);
        }

        #[test]
        fn no_text_panics(text in ".{0,200}") {
            let _ = Trace::parse("t", &format!("icbd-trace 1\n{text}"));
        }
    }
}
