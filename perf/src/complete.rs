//! A complete file through the mount against the same bytes natively on the same file system.

use anyhow::Result;

use crate::Scale;
use crate::load::{self, Pattern};
use crate::site::{IMAGE, Site};
use crate::stats::{self, Goal, Row, Samples};

/// DESIGN's goal for what the kernel serves by itself.
const GOAL: Goal = Goal::AtLeast(0.95);

pub(crate) fn run(scale: &Scale) -> Result<String> {
    let site = Site::publish(scale.file_bytes)?;
    let cache = site.cold_cache()?;
    cache.prefetch_all(&format!("{IMAGE}@1"))?;
    let (ours, theirs) = (site.mounted(&cache), site.original());
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
                for (path, samples) in [(&ours, &mut mounted), (&theirs, &mut native)] {
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
            rows.push(Row { work, unit: "MB/s", ours: mounted.median(), theirs: native.median(), ratio, goal: GOAL });
        }
    }
    Ok(stats::table("A complete file", "through the mount", "natively", &rows))
}
