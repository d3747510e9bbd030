//! What the tests of a repository share: a place for one, and a comparison of trees that shares no code with it.
#![allow(dead_code, reason = "not every test uses all of it")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use icbd_image::ImageName;
use icbd_master::{MasterError, Progress, PublishRequest, Published, Repository, Settings};

/// A directory of its own with room for a repository and a source.
pub(crate) struct Area {
    /// Where in the directory everything is; ended before the directory goes, which could not go otherwise.
    mounted: Option<Mounted>,
    pub(crate) directory: tempfile::TempDir,
}

impl Area {
    pub(crate) fn new() -> Area {
        Area::of(tempfile::tempdir().unwrap(), None)
    }

    /// One on a file system of its own, which `make` makes in a sparse file of `bytes`.
    pub(crate) fn on(make: &[&str], bytes: u64) -> Area {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("disk");
        std::fs::File::create(&file).unwrap().set_len(bytes).unwrap();
        run(Command::new(make[0]).args(&make[1..]).arg(&file));
        let mounted = Mounted::image(&directory.path().join("mounted"), &file);
        Area::of(directory, Some(mounted))
    }

    fn of(directory: tempfile::TempDir, mounted: Option<Mounted>) -> Area {
        let area = Area { mounted, directory };
        std::fs::create_dir(area.source()).unwrap();
        area
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.mounted.as_ref().map_or(self.directory.path(), |mounted| &mounted.0).join(name)
    }

    pub(crate) fn repository(&self) -> PathBuf {
        self.path("repository")
    }

    pub(crate) fn source(&self) -> PathBuf {
        self.path("source")
    }

    pub(crate) fn open(&self) -> Arc<Repository> {
        Arc::new(Repository::open_or_create(&self.repository(), Settings::default()).unwrap())
    }
}

pub(crate) fn image(name: &str) -> ImageName {
    name.parse().unwrap()
}

pub(crate) fn request(name: &str, path: &Path) -> PublishRequest {
    PublishRequest {
        image: image(name),
        path: path.to_owned(),
        raw: false,
        note: String::new(),
        deploy: false,
        sign: None,
    }
}

pub(crate) fn no_progress(_: Progress) {}

pub(crate) fn publish(repository: &Repository, name: &str, path: &Path) -> Result<Published, MasterError> {
    repository.publish(&request(name, path), &no_progress, &AtomicBool::new(false))
}

pub(crate) fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A file system mounted for one test, unmounted at its end however it ends.
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    pub(crate) fn tmpfs(at: &Path, options: &str) -> Mounted {
        std::fs::create_dir_all(at).unwrap();
        run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "icbd-test"]).arg(at));
        Mounted(at.to_owned())
    }

    pub(crate) fn image(at: &Path, file: &Path) -> Mounted {
        std::fs::create_dir_all(at).unwrap();
        run(Command::new("mount").args(["-o", "loop"]).arg(file).arg(at));
        Mounted(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// Everything that can be told of one name in a tree.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Described {
    kind: &'static str,
    mode: u32,
    owner: (u32, u32),
    modified: (i64, i64),
    device: u64,
    size: u64,
    content: Option<blake3::Hash>,
    target: Option<PathBuf>,
    xattrs: BTreeMap<OsString, Vec<u8>>,
    /// The first name, in order, of the same file.
    same_as: Option<OsString>,
}

/// All names below `root`, and the root itself.
pub(crate) fn describe(root: &Path) -> BTreeMap<OsString, Described> {
    let mut all = BTreeMap::new();
    let mut inodes = BTreeMap::new();
    describe_into(root, root, &mut all);
    for (name, described) in &mut all {
        let metadata = root.join(name).symlink_metadata().unwrap();
        if !metadata.is_dir() && metadata.nlink() > 1 {
            described.same_as = Some(inodes.entry(metadata.ino()).or_insert_with(|| name.clone()).clone());
        }
    }
    all
}

fn describe_into(root: &Path, path: &Path, all: &mut BTreeMap<OsString, Described>) {
    let metadata = path.symlink_metadata().unwrap();
    let kind = metadata.file_type();
    let is_kept = |name: &OsString| !name.to_string_lossy().starts_with("user.icbd.");
    let names = xattr::list(path).unwrap().filter(is_kept);
    let described = Described {
        kind: match kind {
            _ if kind.is_file() => "file",
            _ if kind.is_dir() => "directory",
            _ if kind.is_symlink() => "symlink",
            _ if kind.is_char_device() => "character device",
            _ if kind.is_block_device() => "block device",
            _ => "other",
        },
        mode: metadata.mode(),
        owner: (metadata.uid(), metadata.gid()),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        device: metadata.rdev(),
        size: if kind.is_dir() { 0 } else { metadata.len() },
        content: kind.is_file().then(|| {
            let mut hasher = blake3::Hasher::new();
            std::io::copy(&mut std::fs::File::open(path).unwrap(), &mut hasher).unwrap();
            hasher.finalize()
        }),
        target: kind.is_symlink().then(|| std::fs::read_link(path).unwrap()),
        xattrs: names.map(|name| (name.clone(), xattr::get(path, &name).unwrap().unwrap())).collect(),
        same_as: None,
    };
    all.insert(path.strip_prefix(root).unwrap().as_os_str().to_owned(), described);
    if kind.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            describe_into(root, &entry.unwrap().path(), all);
        }
    }
}

/// Asserts that two trees are the same in everything.
pub(crate) fn compare_trees(expected: &Path, found: &Path) {
    let (expected, found) = (describe(expected), describe(found));
    let names = |tree: &BTreeMap<OsString, Described>| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&expected), names(&found));
    for (name, described) in &expected {
        assert_eq!(described, &found[name], "{name:?}");
    }
}

/// The staging directories and stored versions of a repository, which no publish is at.
pub(crate) fn stored(repository: &Path) -> (usize, Vec<PathBuf>, usize) {
    let list = |path: PathBuf| -> Vec<PathBuf> {
        let mut paths: Vec<_> = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    };
    let versions = list(repository.join("versions")).into_iter().flat_map(list).collect();
    (list(repository.join("publishing")).len(), versions, list(repository.join("manifests")).len())
}
