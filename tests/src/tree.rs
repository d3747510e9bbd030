//! Trees of files: one to publish that has everything a Debian root may hold, and a comparison of two.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, makedev, mknod, utimensat};
use nix::sys::time::TimeSpec;

use crate::content::{MIB, fill, write_sparse};

/// Makes a tree with every kind of entry, mode and name that a version keeps.
pub fn sample_tree(root: &Path) -> Result<()> {
    fs::create_dir_all(root.join("usr/share/deep/er"))?;
    fs::write(root.join("empty"), b"")?;
    fs::write(root.join("usr/small"), b"a few bytes\n")?;
    fill(&root.join("usr/share/medium"), 1, 3 * MIB + 12_345)?;
    fill(&root.join("block"), 2, 65_536)?;
    fill(&root.join("block-and-one"), 3, 65_537)?;
    write_sparse(&root.join("sparse"), 64 * MIB, &[(5 * MIB + 17, b"island"), (64 * MIB - 3, b"end")])?;
    fs::write(root.join(OsStr::from_bytes(b"not utf-8 \xff\xfe")), b"bytes are names")?;
    fs::write(root.join("new\nline and space"), b"odd")?;
    fs::write(root.join("n".repeat(255)), b"the longest name")?;
    fs::hard_link(root.join("usr/small"), root.join("usr/share/hard"))?;
    symlink("../usr/small", root.join("usr/share/link"))?;
    symlink("/nowhere/at/all", root.join("dangling"))?;
    symlink("loop", root.join("loop"))?;
    mknod(&root.join("null"), SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 3))?;
    mknod(&root.join("disk"), SFlag::S_IFBLK, Mode::from_bits_truncate(0o660), makedev(254, 1))?;
    xattr::set(root.join("block"), "user.colour", b"gr\0n")?;
    xattr::set(root.join("usr/small"), "trusted.icbd-lab", b"1")?;
    chown(root.join("usr/share/medium"), Some(1234), Some(4321))?;
    for (path, mode) in
        [("usr/small", 0o4755), ("block", 0o000), ("usr/share/deep", 0o1777), ("usr/share/deep/er", 0o700)]
    {
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode))?;
    }
    // The times last: everything above would change them. One is before 1970, one has nanoseconds.
    for (path, seconds, nanoseconds) in
        [("block", -86_400, 0), ("dangling", 1_000_000_000, 5), ("usr", 1_700_000_000, 123_456_789)]
    {
        let time = TimeSpec::new(seconds, nanoseconds);
        utimensat(nix::fcntl::AT_FDCWD, &root.join(path), &time, &time, UtimensatFlags::NoFollowSymlink)?;
    }
    Ok(())
}

/// Fails at the first difference between the trees: names, kinds, modes, owners, times, links, attributes, contents.
/// Attributes of the mount's own, `user.icbd.*`, are not part of a tree. Returns how many entries there are.
pub fn compare_trees(expected: &Path, found: &Path) -> Result<u64> {
    let mut links = BTreeMap::new();
    compare_entries(expected, found, &mut links)
}

/// Inode in the expected tree to inode in the found one.
type Links = BTreeMap<u64, u64>;

fn compare_entries(expected: &Path, found: &Path, links: &mut Links) -> Result<u64> {
    let (want, have) = (metadata(expected)?, metadata(found)?);
    compare_metadata(&want, &have).with_context(|| format!("{} and {}", expected.display(), found.display()))?;
    let paired = *links.entry(want.ino()).or_insert(have.ino());
    ensure!(paired == have.ino(), "{} is not linked like {}", found.display(), expected.display());
    ensure!(attributes(expected)? == attributes(found)?, "attributes of {} differ", found.display());
    if want.is_symlink() {
        ensure!(fs::read_link(expected)? == fs::read_link(found)?, "{} points elsewhere", found.display());
    } else if want.is_file() {
        compare_contents(expected, found)?;
    } else if want.is_dir() {
        let names = names(expected)?;
        let others = self::names(found)?;
        ensure!(names == others, "{} lists {others:?}, expected {names:?}", found.display());
        return names
            .iter()
            .try_fold(1, |count, name| Ok(count + compare_entries(&expected.join(name), &found.join(name), links)?));
    }
    Ok(1)
}

fn metadata(path: &Path) -> Result<Metadata> {
    fs::symlink_metadata(path).with_context(|| format!("looking at {}", path.display()))
}

fn compare_metadata(want: &Metadata, have: &Metadata) -> Result<()> {
    let facts = |of: &Metadata| {
        let kind = of.file_type();
        let is_device = kind.is_char_device() || kind.is_block_device();
        [
            ("mode", i128::from(of.mode())),
            ("uid", of.uid().into()),
            ("gid", of.gid().into()),
            ("mtime", i128::from(of.mtime()) * 1_000_000_000 + i128::from(of.mtime_nsec())),
            ("device", if is_device { of.rdev().into() } else { 0 }),
            ("size", if kind.is_file() || kind.is_symlink() { of.size().into() } else { 0 }),
            ("links", if kind.is_dir() { 0 } else { of.nlink().into() }),
        ]
    };
    for ((name, want), (_, have)) in facts(want).into_iter().zip(facts(have)) {
        ensure!(want == have, "{name} is {have}, expected {want}");
    }
    Ok(())
}

fn names(dir: &Path) -> Result<Vec<OsString>> {
    let entries = fs::read_dir(dir).with_context(|| format!("listing {}", dir.display()))?;
    let mut names: Vec<OsString> =
        entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<_, _>>()?;
    names.sort();
    Ok(names)
}

fn attributes(path: &Path) -> Result<BTreeMap<OsString, Vec<u8>>> {
    let names = xattr::list(path).with_context(|| format!("attributes of {}", path.display()))?;
    names
        .filter(|name| !name.as_bytes().starts_with(b"user.icbd."))
        .map(|name| Ok((name.clone(), xattr::get(path, &name)?.unwrap_or_default())))
        .collect()
}

/// Fails unless both files hold the same bytes.
pub(crate) fn compare_contents(expected: &Path, found: &Path) -> Result<()> {
    let open = |path: &Path| File::open(path).with_context(|| format!("opening {}", path.display()));
    let (mut want, mut have) = (open(expected)?, open(found)?);
    let (mut wanted, mut got) = (Vec::new(), Vec::new());
    for offset in (0..).step_by(MIB as usize) {
        wanted.clear();
        got.clear();
        want.by_ref().take(MIB).read_to_end(&mut wanted)?;
        have.by_ref().take(MIB).read_to_end(&mut got).with_context(|| format!("reading {}", found.display()))?;
        ensure!(wanted == got, "{} differs from {} after byte {offset}", found.display(), expected.display());
        if wanted.is_empty() {
            break;
        }
    }
    Ok(())
}

/// Every regular file below `root`, by path relative to it.
pub fn files_below(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            match entry.file_type()? {
                kind if kind.is_dir() => folders.push(path),
                kind if kind.is_file() => found.push(path),
                _ => {}
            }
        }
    }
    found.sort();
    Ok(found)
}
