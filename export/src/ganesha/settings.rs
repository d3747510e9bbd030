//! What `ganesha.conf` says, as far as icbd has to know.

use std::path::{Path, PathBuf};

use crate::ServerError;

const INCLUDE: &str = "%include";
const PORT: u16 = 2049;
/// Files that bring in each other bring in no more.
const DEPTH_MAX: usize = 8;

/// The administrator's file, with what it brings in but icbd's own.
#[derive(Debug)]
pub(super) struct Settings {
    path: PathBuf,
    text: String,
    /// Whether icbd's file is one of those.
    has_ours: bool,
}

impl Settings {
    pub(super) fn read(path: &Path, ours: &Path) -> Result<Settings, ServerError> {
        let failed = |source| ServerError::Io { doing: "read", path: path.to_owned(), source };
        let text = std::fs::read_to_string(path).map_err(failed)?;
        let mut settings = Settings { path: path.to_owned(), text: String::new(), has_ours: false };
        settings.add(&text, ours, DEPTH_MAX);
        Ok(settings)
    }

    fn add(&mut self, text: &str, ours: &Path, depth: usize) {
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or(line);
            let Some((_, included)) = line.split_once(INCLUDE) else {
                self.text += &format!("{line}\n");
                continue;
            };
            let included = Path::new(included.trim().trim_matches('"'));
            if included == ours {
                self.has_ours = true;
            } else if depth > 0
                && let Ok(text) = std::fs::read_to_string(included)
            {
                // One that cannot be read is Ganesha's to complain of.
                self.add(&text, ours, depth - 1);
            }
        }
    }

    /// Fails unless it brings in icbd's file.
    pub(super) fn check(&self, ours: &Path) -> Result<(), ServerError> {
        let line = format!("{INCLUDE} \"{}\"", ours.display());
        if self.has_ours { Ok(()) } else { Err(ServerError::NotIncluded { path: self.path.clone(), line }) }
    }

    /// Where it listens for NFS.
    pub(super) fn port(&self) -> u16 {
        let text = self.text.to_ascii_lowercase();
        let values = text.split("nfs_port").skip(1).filter_map(|rest| rest.trim_start().strip_prefix('='));
        let number = |value: &str| value.split(';').next()?.trim().parse().ok();
        values.filter_map(number).last().unwrap_or(PORT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_brought_in_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let (main, other, ours) = (path("ganesha.conf"), path("other.conf"), path("icbd.conf"));
        let check = |text: &str, is_included: bool, port: u16| {
            std::fs::write(&main, text).unwrap();
            let settings = Settings::read(&main, &ours).unwrap();
            let included = settings.check(&ours);
            assert_eq!((included.is_ok(), settings.port()), (is_included, port), "{text}: {included:?}");
        };
        let line = format!("%include \"{}\"\n", ours.display());
        check("", false, 2049);
        check(&line, true, 2049);
        check(&format!("# {line}NFS_CORE_PARAM {{ NFS_Port = 12049; # NFS_Port = 7;\n}}\n"), false, 12049);
        check(&format!("nfs_core_param {{\n\tnfs_port=2050;\n}}\n%include {}", ours.display()), true, 2050);
        std::fs::write(&other, format!("{line}%include {}\n", other.display())).unwrap();
        check(&format!("%include \"{}\"\n", other.display()), true, 2049);
        let missing = Settings::read(&path("nowhere"), &ours).map(drop);
        assert!(missing.unwrap_err().to_string().contains("nowhere"));
        std::fs::write(&main, "").unwrap();
        let said = Settings::read(&main, &ours).unwrap().check(&ours).unwrap_err().to_string();
        assert!(said.contains(line.trim()) && said.contains("ganesha.conf"), "{said}");
    }
}
