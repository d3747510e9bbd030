//! A master and a cache on loopback, holding one file of sample data.

use std::path::PathBuf;

use anyhow::{Context, Result};
use icbd_image::Root;
use icbd_tests::{CacheServer, Lab, Master};

use crate::load;

pub(crate) const IMAGE: &str = "sample";
const FILE: &str = "disk.raw";

/// A published file and the master that serves it. The lab is dropped last: the others live in it.
pub(crate) struct Site {
    pub(crate) master: Master,
    pub(crate) lab: Lab,
}

impl Site {
    /// Publishes a file of `bytes` bytes.
    pub(crate) fn publish(bytes: u64) -> Result<Site> {
        let lab = Lab::new()?;
        let tree = lab.folder("tree")?;
        load::write_sample(&tree.join(FILE), bytes)?;
        let master = Master::start(&lab, &lab.path("repository"))?;
        master.publish(IMAGE, &tree, &["--deploy"])?;
        Ok(Site { master, lab })
    }

    /// The published file itself, outside of icbd.
    pub(crate) fn original(&self) -> PathBuf {
        self.lab.path("tree").join(FILE)
    }

    /// The file's address on the master.
    pub(crate) fn url(&self) -> String {
        format!("{}/files/{IMAGE}/1/{FILE}", self.master.url())
    }

    /// The version's root, as the master says.
    pub(crate) fn root(&self) -> Result<Root> {
        let answer = icbd_tests::get(self.master.address(), &format!("/v1/images/{IMAGE}/versions/1"))?;
        let version: serde_json::Value = serde_json::from_slice(&answer.body)?;
        Ok(version["root"].as_str().context("a version without a root")?.parse()?)
    }

    /// A cache with an empty store.
    pub(crate) fn cold_cache(&self) -> Result<CacheServer> {
        CacheServer::start(&self.lab, &self.master.url())
    }

    /// The file as `cache` shows it.
    pub(crate) fn mounted(&self, cache: &CacheServer) -> PathBuf {
        cache.path(IMAGE).join("1").join(FILE)
    }
}
