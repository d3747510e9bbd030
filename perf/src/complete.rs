//! A complete file through the mount against the same bytes natively on the same file system: as it was filled, and sealed.

use std::path::Path;

use anyhow::Result;
use icbd_tests::{CacheServer, CacheSettings, FileSystem, Volume};

use crate::Scale;
use crate::load::{self, Pattern};
use crate::site::{IMAGE, Site};
use crate::stats::{self, Goal, Row, Samples};

pub(crate) fn run(scale: &Scale) -> Result<String> {
    let site = Site::publish(scale.file_bytes)?;
    let cache = site.cold_cache()?;
    cache.prefetch_all(&format!("{IMAGE}@1"))?;
    let rows = compare(scale, &site.mounted(&cache), &site.original(), Goal::AtLeast(0.95))?;
    Ok(stats::table("A complete file", "through the mount", "natively", &rows))
}

/// A version that is a read-only snapshot, against the snapshot itself.
pub(crate) fn sealed(scale: &Scale) -> Result<String> {
    let site = Site::publish(scale.file_bytes)?;
    let volume = Volume::new(&site.lab, FileSystem::Btrfs, scale.file_bytes * 3)?;
    let store = Some(volume.path().join("store"));
    let config = "[store]\nseal_when = \"never\"\n".to_owned();
    let settings = CacheSettings { store, config, ..CacheSettings::default() };
    let cache = CacheServer::start_with(&site.lab, &[&site.master.url()], &settings)?;
    cache.prefetch_all(&format!("{IMAGE}@1"))?;
    cache.command(&["image", "seal", &format!("{IMAGE}@1")])?.ok()?;
    let (ours, theirs) = (site.mounted(&cache), cache.store().join(format!("versions/{IMAGE}/1/disk.raw")));
    let rows = compare(scale, &ours, &theirs, Goal::AtLeast(0.97))?;
    Ok(stats::table("A sealed version", "through the mount", "the snapshot itself", &rows))
}

fn compare(scale: &Scale, ours: &Path, theirs: &Path, goal: Goal) -> Result<Vec<Row>> {
    let random = |depth| Pattern::Random { depth, reads: scale.random_reads };
    let patterns = [
        ("sequential 1 MiB", Pattern::Sequential),
        ("random 4 KiB, depth 1", random(1)),
        ("random 4 KiB, depth 16", random(16)),
    ];
    let mut rows = Vec::new();
    for (is_warm, temperature) in [(false, "cold"), (true, "warm")] {
        for (work, pattern) in patterns {
            let (mut mounted, mut native) = (Samples::default(), Samples::default());
            for round in 0..scale.rounds as u64 {
                // Alternating, so that a slow minute of the machine hits both.
                for (path, samples) in [(ours, &mut mounted), (theirs, &mut native)] {
                    if is_warm {
                        load::read(path, Pattern::Sequential, round)?;
                    } else {
                        load::drop_caches()?;
                    }
                    let (bytes, time) = load::read(path, pattern, round + 1)?;
                    samples.push(bytes as f64 / 1e6 / time.as_secs_f64());
                }
            }
            let work = format!("{work}, {temperature}");
            let ratio = stats::ratio_of_rounds(&mounted, &native);
            rows.push(Row { work, unit: "MB/s", ours: mounted.median(), theirs: native.median(), ratio, goal });
        }
    }
    Ok(rows)
}
