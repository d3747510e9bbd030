//! Plain files by name, for curl, qemu and iPXE: what a `Range` request reads.

use std::ops::Range;

use bytes::Bytes;
use icbd_image::{FileIndex, Head, ImageName, Kind, Root, Run, Timestamp, VersionId, VersionNumber};

use super::BlockReader;
use crate::{MasterError, Repository};

/// As many symbolic links as Linux follows in one path.
const LINKS_MAX: usize = 40;

/// One regular file of a version.
#[derive(Clone)]
pub struct FileRead<'r> {
    version: VersionId,
    index: FileIndex,
    mtime: Timestamp,
    blocks: Option<BlockReader<'r>>,
    root: Root,
}

impl Repository {
    /// The regular file at `path` in a version of `image`, the deployed one unless `number` says which.
    ///
    /// Symbolic links are followed as if the version were the root of a machine, and never out of it.
    pub fn open_file(
        &self,
        image: &ImageName,
        number: Option<VersionNumber>,
        path: &[u8],
    ) -> Result<FileRead<'_>, MasterError> {
        let version = self.resolve(image, number)?;
        let root = self.version(&version)?.root();
        let head = self.head(root)?;
        let index = follow(&head, path);
        let node = index.and_then(|index| head.node(index)).filter(|node| node.kind() == Kind::File);
        let Some(node) = node else {
            return Err(MasterError::NoFile { version, path: String::from_utf8_lossy(path).into_owned() });
        };
        let (index, mtime) = (node.index(), node.metadata().mtime);
        // An empty file has no block to read.
        let run = Run { root, file: index, first: 0, count: 1 };
        let blocks = if node.size() == 0 { None } else { Some(self.blocks(run)?) };
        Ok(FileRead { version, index, mtime, blocks, root })
    }
}

impl FileRead<'_> {
    pub fn version(&self) -> &VersionId {
        &self.version
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.blocks.as_ref().map_or(0, BlockReader::file_bytes)
    }

    pub fn mtime(&self) -> Timestamp {
        self.mtime
    }

    /// A strong entity tag, without its quotes: the same content has the same one for ever.
    pub fn etag(&self) -> String {
        format!("{}-{}", self.root, self.index)
    }

    /// Root and index: what to ask [`Repository::blocks`] for when more than one range is read.
    pub fn content(&self) -> (Root, FileIndex) {
        (self.root, self.index)
    }

    /// The file's bytes in `range`, as far as it has them. Holds all of them in memory: ask for a mebibyte or so.
    pub fn read(&self, range: Range<u64>) -> Result<Bytes, MasterError> {
        self.blocks.as_ref().map_or(Ok(Bytes::new()), |reader| reader.read_range(range))
    }
}

/// The node that `path` means, symbolic links followed; `None` if it means nothing.
fn follow(head: &Head, path: &[u8]) -> Option<FileIndex> {
    let mut names: Vec<Vec<u8>> = split(path);
    // The directories walked into, from the root on.
    let mut stack = vec![FileIndex::ROOT];
    let mut links = 0;
    while let Some(name) = names.pop() {
        let directory = *stack.last()?;
        if name == b".." {
            if stack.len() > 1 {
                stack.pop();
            }
            continue;
        }
        let index = head.lookup(directory, &name)?;
        let node = head.node(index)?;
        match node.target() {
            Some(target) => {
                links += 1;
                if links > LINKS_MAX {
                    return None;
                }
                if target.starts_with(b"/") {
                    stack.truncate(1);
                }
                names.extend(split(target));
            }
            None if names.is_empty() => return Some(index),
            None => stack.push(index),
        }
    }
    stack.pop()
}

/// The names of a path, the first one last.
fn split(path: &[u8]) -> Vec<Vec<u8>> {
    let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".");
    let mut names: Vec<Vec<u8>> = names.map(<[u8]>::to_vec).collect();
    names.reverse();
    names
}
