//! What was measured, kept in files between the pieces of a long run.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Where a run in pieces keeps `name`.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/perf").join(name)
}

/// What `path` holds; nothing if it is missing.
pub(crate) fn load<T: DeserializeOwned + Default>(path: &Path) -> Result<T> {
    match std::fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).with_context(|| format!("{} is damaged; delete it", path.display())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(T::default()),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

pub(crate) fn save(path: &Path, what: &impl Serialize) -> Result<()> {
    std::fs::create_dir_all(path.parent().context("a file in a folder")?)?;
    std::fs::write(path, serde_json::to_vec_pretty(what)?).context("keeping the results")
}
