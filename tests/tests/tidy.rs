//! What the source promises about itself: which room may use which, where unsafe code and the FUSE library are, how
//! large a file may be, and that every promise in SEMANTICS.md has its test.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use icbd_tests::files_below;

/// Which package may depend on which, outside of tests: the data path, and nothing points back.
const ARROWS: &[(&str, &[&str])] = &[
    ("image", &[]),
    ("wire", &["image"]),
    ("snapshot", &["image"]),
    ("master", &["image", "wire", "snapshot"]),
    ("fetch", &["image", "wire"]),
    ("cache", &["image", "fetch", "snapshot"]),
    ("fs", &["image", "cache"]),
    ("export", &["image"]),
    // What measures anybody's disk knows nothing of ours.
    ("storm", &[]),
    ("daemon", &["image", "wire", "snapshot", "master", "fetch", "cache", "fs", "export", "storm"]),
    // It knows icbd as a program only.
    ("mount-helpers", &[]),
    // What a scenario compares with must not be made by what it tests.
    ("tests", &[]),
];
/// A source file that is longer should be several.
const FILE_LINES_MAX: usize = 500;
const FILE_LINES_MEDIAN_MAX: usize = 200;
/// Licences that can be passed on under Apache-2.0.
const LICENCES: &[&str] = &[
    "MIT",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "Unlicense",
    "0BSD",
    "CC0-1.0",
    "MPL-2.0",
    "BSL-1.0",
    "MIT-0",
    "CDLA-Permissive-2.0",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in a workspace").to_owned()
}

/// Every Rust file of the workspace with its text, by path relative to the root.
fn sources() -> Result<Vec<(PathBuf, String)>> {
    let mut sources = Vec::new();
    for member in fs::read_dir(root())? {
        let member = member?.path();
        if member.join("Cargo.toml").is_file() {
            for file in files_below(&member)?.into_iter().filter(|file| file.extension().is_some_and(|of| of == "rs")) {
                let path = member.join(file);
                if !path.components().any(|part| part.as_os_str() == "target") {
                    let text = fs::read_to_string(&path)?;
                    sources.push((path.strip_prefix(root())?.to_owned(), text));
                }
            }
        }
    }
    ensure!(sources.len() > 50, "only {} source files found", sources.len());
    Ok(sources)
}

/// Lines in a section `[name]` of a Cargo.toml.
fn section<'a>(manifest: &'a str, name: &str) -> Vec<&'a str> {
    let header = format!("[{name}]");
    let lines = manifest.lines().skip_while(|line| *line != header).skip(1);
    lines.take_while(|line| !line.starts_with('[')).collect()
}

#[test]
fn rooms_depend_along_the_data_path_only() -> Result<()> {
    for (room, allowed) in ARROWS {
        let manifest = fs::read_to_string(root().join(room).join("Cargo.toml")).with_context(|| room.to_string())?;
        for line in section(&manifest, "dependencies") {
            if let Some(rest) = line.strip_prefix("icbd-") {
                let other = rest.split(['.', ' ', '=']).next().unwrap_or(rest);
                ensure!(allowed.contains(&other), "{room}/ may not depend on {other}/");
            }
        }
    }
    Ok(())
}

#[test]
fn the_pure_rooms_do_no_input_or_output() -> Result<()> {
    for (path, text) in sources()? {
        let is_pure = path.starts_with("image/src") || path.starts_with("wire/src");
        if !is_pure || path.to_string_lossy().contains("tests") {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap_or(&text);
        for forbidden in
            ["std::fs", "std::net", "std::thread", "SystemTime::now", "Instant::", "tokio", "async fn", "getrandom"]
        {
            ensure!(!code.contains(forbidden), "{} uses {forbidden}", path.display());
        }
    }
    Ok(())
}

#[test]
fn only_the_edge_of_fs_speaks_to_the_kernel_by_fuser() -> Result<()> {
    for (path, text) in sources()? {
        let is_edge = path.starts_with("fs/src/edge") || path == Path::new("fs/src/edge.rs");
        ensure!(
            is_edge || !code_of(&text).contains("fuser::") || path.ends_with("tidy.rs"),
            "{} uses fuser",
            path.display()
        );
    }
    Ok(())
}

#[test]
fn unsafe_code_says_why() -> Result<()> {
    for (path, text) in sources()? {
        let code = code_of(&text);
        if code.contains("allow(unsafe_code)") && !path.ends_with("tidy.rs") {
            // A whole module says why it needs it; a single item's SAFETY comment is enough.
            let is_module = code.contains("#![allow(unsafe_code)]");
            ensure!(!is_module || text.contains("JUSTIFICATION"), "{} lacks a JUSTIFICATION", path.display());
            let blocks = code.matches("unsafe {").count();
            ensure!(text.matches("SAFETY:").count() >= blocks, "{} lacks a SAFETY comment", path.display());
        }
    }
    Ok(())
}

#[test]
fn nothing_is_left_for_later() -> Result<()> {
    for (path, text) in sources()? {
        for forbidden in
            [concat!("to", "do!("), concat!("unimplemented", "!("), concat!("#[ign", "ore"), concat!("dbg", "!(")]
        {
            ensure!(!text.contains(forbidden), "{} has {forbidden}", path.display());
        }
    }
    Ok(())
}

#[test]
fn files_are_short_and_say_what_they_are() -> Result<()> {
    let mut lengths = Vec::new();
    for (path, text) in sources()? {
        let lines = text.lines().count();
        ensure!(
            lines <= FILE_LINES_MAX,
            "{} has {lines} lines; more than {FILE_LINES_MAX} should be several files",
            path.display()
        );
        ensure!(
            text.starts_with("//!") || text.starts_with("#!"),
            "{} has no header that says what it is",
            path.display()
        );
        lengths.push(lines);
    }
    lengths.sort_unstable();
    let median = lengths[lengths.len() / 2];
    ensure!(median <= FILE_LINES_MEDIAN_MAX, "the median file has {median} lines");
    Ok(())
}

/// A promise is a row `| promise | `file` `test` |`; the test's doc comment begins with it.
#[test]
fn every_promise_has_its_test() -> Result<()> {
    let promises = fs::read_to_string(root().join("SEMANTICS.md")).context("reading SEMANTICS.md")?;
    let mut count = 0;
    for line in promises.lines() {
        let Some((promise, test)) = line.strip_prefix("| ").and_then(|line| line.split_once(" | `")) else { continue };
        let parts: Vec<&str> = test.split('`').collect();
        let [file, _, name, ..] = parts[..] else { anyhow::bail!("{promise:?} names no file and test") };
        let text = fs::read_to_string(root().join(file)).with_context(|| format!("{file}, which {promise:?} names"))?;
        let doc = doc_of(&text, name).with_context(|| format!("{file} has no test {name}"))?;
        ensure!(doc.starts_with(promise), "{file}: {name} is to prove {promise:?}, its doc comment says {doc:?}");
        count += 1;
    }
    ensure!(count > 0, "SEMANTICS.md has no promise");
    Ok(())
}

/// The doc comment of function `name` as one line.
fn doc_of(text: &str, name: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let at = lines.iter().position(|line| line.contains(&format!("fn {name}(")))?;
    let above = lines[..at].iter().rev().take_while(|line| line.starts_with("///") || line.starts_with("#["));
    let mut doc: Vec<&str> = above.filter_map(|line| line.strip_prefix("///")).map(str::trim).collect();
    doc.reverse();
    Some(doc.join(" "))
}

#[test]
fn dependencies_have_licences_that_fit() -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--locked", "--offline", "--filter-platform=x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output()?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let mut unfit = BTreeMap::new();
    for package in metadata["packages"].as_array().context("no packages")? {
        let licence = package["license"].as_str().unwrap_or("none");
        // `A OR B` leaves the choice; `A AND B` binds to both; older crates write a slash for OR.
        let choices: Vec<&str> = licence.split(" OR ").flat_map(|choice| choice.split('/')).collect();
        let fits = choices.iter().any(|choice| {
            choice.split(" AND ").all(|one| {
                let name = one.trim_matches(['(', ')', ' ']).split(" WITH ").next().unwrap_or(one);
                LICENCES.contains(&name)
            })
        });
        if !fits {
            unfit.insert(package["name"].to_string(), licence.to_owned());
        }
    }
    ensure!(unfit.is_empty(), "licences to look at: {unfit:?}");
    Ok(())
}

/// The lines of `text` that are not comments.
fn code_of(text: &str) -> String {
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}
