//! Plain files by name, for curl, qemu and iPXE: what a `Range` request reads.

use std::ops::Range;

use bytes::Bytes;
use icbd_image::{FileIndex, ImageName, Kind, Root, Run, Timestamp, VersionId, VersionNumber};

use super::BlockReader;
use crate::{MasterError, Repository};

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
        let index = head.follow(path);
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
