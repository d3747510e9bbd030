//! The folder of public keys whose signatures are believed.

use std::path::{Path, PathBuf};

use anyhow::Context;
use icbd_image::PublicKey;

use crate::failure::{Exit, Failure};

/// A trusted key and the file it is in.
#[derive(Debug)]
pub(crate) struct TrustedKey {
    pub path: PathBuf,
    pub key: PublicKey,
}

/// The keys in the files that `patterns` name, each in order of its path.
pub(crate) fn load(patterns: &[PathBuf]) -> anyhow::Result<Vec<TrustedKey>> {
    let mut found = Vec::new();
    for pattern in patterns {
        for path in expand(pattern)? {
            let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let key = text.parse().with_context(|| format!("{} is not a public key; remove it", path.display()))?;
            found.push(TrustedKey { path, key });
        }
    }
    Ok(found)
}

/// The folder that `key trust` writes into: the first pattern's.
pub(crate) fn folder(patterns: &[PathBuf]) -> Result<&Path, Failure> {
    let folder = patterns.iter().find(|pattern| has_star(pattern)).and_then(|pattern| pattern.parent());
    folder.ok_or_else(|| {
        let message = "trust.keys names no folder to put keys into; add a pattern such as \"/etc/icbd/trusted/*.pub\"";
        Failure::new(Exit::Usage, message)
    })
}

fn has_star(pattern: &Path) -> bool {
    pattern.file_name().is_some_and(|name| name.as_encoded_bytes().contains(&b'*'))
}

/// The files that `pattern` means: itself, or, with a `*` in its last part, what fits it.
fn expand(pattern: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let (Some(folder), Some(name), true) = (pattern.parent(), pattern.file_name(), has_star(pattern)) else {
        return Ok(vec![pattern.to_owned()]);
    };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        // Nobody is trusted yet.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot list the trusted keys in {}", folder.display()));
        }
    };
    let mut paths = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", folder.display()))?;
        if fits(entry.file_name().as_encoded_bytes(), name.as_encoded_bytes()) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// Whether `name` fits `pattern`, in which each `*` stands for any bytes.
fn fits(name: &[u8], pattern: &[u8]) -> bool {
    let mut parts = pattern.split(|byte| *byte == b'*');
    let (first, mut rest) = (parts.next().unwrap_or_default(), name);
    let Some(after) = rest.strip_prefix(first) else { return false };
    rest = after;
    let parts: Vec<&[u8]> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(at) = (0..=rest.len()).find(|at| rest[*at..].starts_with(part)) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use icbd_image::SecretKey;

    #[test]
    fn stars_fit_any_bytes() {
        let check = |name: &str, pattern: &str, expected| {
            assert_eq!(fits(name.as_bytes(), pattern.as_bytes()), expected, "{name} {pattern}");
        };
        check("a.pub", "*.pub", true);
        check(".pub", "*.pub", true);
        check("a.pub.old", "*.pub", false);
        check("site-a.pub", "site-*.pub", true);
        check("ab", "a*b*b", false);
        check("axbyb", "a*b*b", true);
        check("a", "a", true);
    }

    #[test]
    fn keys_are_found_and_what_is_no_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let patterns = [dir.path().join("*.pub")];
        let public = SecretKey::from_random([3; 32], "alice").public();
        std::fs::write(dir.path().join("alice.pub"), public.to_string()).unwrap();
        std::fs::write(dir.path().join("README"), "not a key").unwrap();
        assert_eq!(load(&patterns).unwrap()[0].key, public);
        std::fs::write(dir.path().join("bob.pub"), "not a key").unwrap();
        assert!(format!("{:#}", load(&patterns).unwrap_err()).contains("bob.pub is not a public key"));
        assert!(load(&[dir.path().join("none/*.pub")]).unwrap().is_empty());
        assert_eq!(folder(&patterns).unwrap(), dir.path());
    }
}
