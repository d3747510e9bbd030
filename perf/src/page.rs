//! `RESULTS.md`: what was kept of each part, as one page.

use std::path::Path;

use anyhow::{Context, Result};

use crate::{replicate, storm};

/// What is known of the goals that are missed.
const LIMITS: &str = include_str!("../limits.md");

const PREFACE: &str = "# What was measured

Made by `make bench`; not edited by hand, but for the last chapter, which is `perf/limits.md`.
";

const FILES: &str = "
## Single files

On loopback: master, cache and reader share the machine. Medians; the goal is for the ratio, which is the median of the rounds' ratios.

";

/// Writes the page and its plots into `folder`; `files` are the tables of reading single files.
pub(crate) fn write<'a>(
    files: impl Iterator<Item = &'a str>,
    storms: &storm::Results,
    trips: &replicate::Trips,
    folder: &Path,
) -> Result<()> {
    let plots = folder.join("plots");
    std::fs::create_dir_all(&plots)?;
    let mut page = format!("{PREFACE}\nMachine: {}.\n", machine());
    for (at, table) in files.enumerate() {
        page.push_str(if at == 0 { FILES } else { "\n" });
        page.push_str(table);
    }
    page.push_str(&storm::chapter(storms, &plots)?);
    page.push_str(&replicate::chapter(trips, &plots)?);
    page.push('\n');
    page.push_str(LIMITS);
    std::fs::write(folder.join("RESULTS.md"), page).context("writing RESULTS.md")
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let cores = info.lines().filter(|line| line.starts_with("processor")).count();
    let release = read("/proc/sys/kernel/osrelease");
    // What follows is the builder's own.
    let kernel = release.split('-').next().unwrap_or_default();
    format!("{cores} cores ({}), Linux {}", model.trim_matches([' ', '\t', ':']), kernel.trim())
}

pub(crate) fn row(name: &str, cells: impl Iterator<Item = Option<String>>) -> String {
    let cells: Vec<String> = cells.map(|cell| cell.unwrap_or_else(|| "–".to_owned())).collect();
    format!("| {name} | {} |\n", cells.join(" | "))
}

pub(crate) fn table(title: &str, headings: &[String], rows: Vec<String>) -> String {
    let rule = " ---: |".repeat(headings.len());
    format!("\n### {title}\n\n| | {} |\n| --- |{rule}\n{}", headings.join(" | "), rows.concat())
}
