//! Disk images of other formats, converted to sparse raw ones while they are published (`--raw`): iSCSI serves no other.
//!
//! What a format is, its first bytes say and no name. A disk that is not whole in its file is refused: what it refers
//! to may be anything on this machine. The conversion is `qemu-img`'s, into the staging directory.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::MasterError;

/// How soon a conversion that is not wanted any more ends: a flag cannot be waited for.
const CANCEL_POLL: Duration = Duration::from_millis(50);
/// Runs of zeros from this size on become holes: a block.
const HOLE_BYTES: &str = "65536";
/// The longest description of an image that is read.
const INFO_BYTES_MAX: u64 = 1 << 20;
const PROGRAM: &str = "qemu-img";

/// A format that is converted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Format {
    /// As `qemu-img` calls it.
    name: &'static str,
    /// The end of a file's name that the new one has `.raw` in place of.
    extension: &'static str,
    magic: &'static [u8],
}

const FORMATS: [Format; 4] = [
    Format { name: "qcow2", extension: "qcow2", magic: b"QFI\xfb" },
    Format { name: "vmdk", extension: "vmdk", magic: b"KDMV" },
    Format { name: "vmdk", extension: "vmdk", magic: b"# Disk DescriptorFile" },
    Format { name: "vhdx", extension: "vhdx", magic: b"vhdxfile" },
];

impl Format {
    /// The format of an image, by its first bytes; `None` for all that is taken as it is.
    pub(super) fn of(file: &File) -> Option<Format> {
        let mut first = [0; 32];
        let read = std::os::unix::fs::FileExt::read_at(file, &mut first, 0).ok()?;
        FORMATS.into_iter().find(|format| first[..read].starts_with(format.magic))
    }

    /// The name of a file once it is converted.
    pub(super) fn converted_name(self, name: &[u8]) -> Vec<u8> {
        let stem = name.len().checked_sub(self.extension.len() + 1).filter(|stem| *stem > 0);
        let has_extension =
            |stem: &usize| name[*stem] == b'.' && name[*stem + 1..].eq_ignore_ascii_case(self.extension.as_bytes());
        let stem = stem.filter(has_extension).map_or(name, |stem| &name[..stem]);
        [stem, b".raw"].concat()
    }

    /// Converts the image at `from` to a new file at `to`, unless it is not whole.
    pub(super) fn convert(self, from: &Path, to: &Path, is_cancelled: impl Fn() -> bool) -> Result<(), MasterError> {
        let refused = |why: String| MasterError::Disk { path: from.to_owned(), why };
        if self.magic.starts_with(b"#") {
            return Err(refused("its data are in other files; convert it with `qemu-img convert` first".to_owned()));
        }
        let mut info = start(Command::new(PROGRAM).args(["info", "--output=json", "-f", self.name]).arg(from), from)?;
        let mut said = String::new();
        let read = info.stdout.take().map(|out| out.take(INFO_BYTES_MAX).read_to_string(&mut said));
        read.transpose().map_err(MasterError::io("ask qemu-img about", from))?;
        end(info, from, &is_cancelled)?;
        // Not parsed as JSON: whatever names another file at all is refused.
        for key in ["\"backing-filename\"", "\"full-backing-filename\"", "\"data-file\""] {
            if said.contains(key) {
                return Err(refused(
                    "it is based on another file; make it whole with `qemu-img convert` (or `qemu-img rebase -b \"\"`) first"
                        .to_owned(),
                ));
            }
        }
        let mut convert = Command::new(PROGRAM);
        convert.args(["convert", "-f", self.name, "-O", "raw", "-S", HOLE_BYTES]).args([from, to]);
        end(start(&mut convert, from)?, from, &is_cancelled)
    }
}

fn start(command: &mut Command, image: &Path) -> Result<Child, MasterError> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => MasterError::NoProgram(PROGRAM),
        _ => MasterError::io("convert", image)(error),
    })
}

/// Waits for the end of a program that says little.
fn end(mut child: Child, image: &Path, is_cancelled: &impl Fn() -> bool) -> Result<(), MasterError> {
    let waited = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Ok(status),
            Ok(None) if is_cancelled() => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(MasterError::Cancelled);
            }
            Ok(None) => std::thread::sleep(CANCEL_POLL),
            Err(error) => break Err(error),
        }
    };
    let status = waited.map_err(MasterError::io("convert", image))?;
    if status.success() {
        return Ok(());
    }
    let mut said = String::new();
    if let Some(out) = child.stderr.take() {
        let _ = out.take(4096).read_to_string(&mut said);
    }
    let why = format!("qemu-img cannot read it ({}); see that it is whole", said.trim());
    Err(MasterError::Disk { path: image.to_owned(), why })
}

/// Where the `number`th converted image of a publish is.
pub(super) fn place(staging: &Path, number: usize) -> PathBuf {
    staging.join(format!("raw-{number}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_converted_image_is_called_raw() {
        let qcow2 = FORMATS[0];
        for (name, expected) in [
            ("disk.qcow2", "disk.raw"),
            ("DISK.QCOW2", "DISK.raw"),
            ("disk", "disk.raw"),
            (".qcow2", ".qcow2.raw"),
            ("a.img", "a.img.raw"),
        ] {
            assert_eq!(qcow2.converted_name(name.as_bytes()), expected.as_bytes(), "{name}");
        }
    }
}
