//! Which file of a version is the disk that workstations get.

use icbd_image::{FileIndex, Head, Kind, Node};

/// What a disk's name ends with.
const RAW: &str = ".raw";
/// Files that hold a disk in a form of their own: who reads their bytes does not find it.
const CONTAINERS: [&str; 5] = [".qcow2", ".vmdk", ".vhd", ".vhdx", ".vdi"];
const SECTOR_BYTES: u64 = 512;

/// Why a version cannot be served as a disk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    #[error("there is no file {0} in it")]
    Absent(String),
    #[error(
        "it is a tree of files without a disk (a file *{RAW} at its top), which iSCSI cannot serve; name the file that is one with --disk"
    )]
    NoDisk,
    #[error("there are several disks in it ({}); name one with --disk", .0.join(", "))]
    Several(Vec<String>),
    #[error("{0} is a container, in which clients would not find their disk; publish it with --raw")]
    Container(String),
    #[error("{name} has {bytes} bytes, and a disk has one or more sectors of {SECTOR_BYTES}")]
    Sectors { name: String, bytes: u64 },
}

/// The path of the disk within a version: the file that is `named`, or the only one that can be meant.
pub fn disk_of(head: &Head, named: Option<&str>) -> Result<String, DiskError> {
    let (name, node) = match named {
        Some(named) => {
            let node = head.resolve(named.as_bytes()).and_then(|index| head.node(index));
            let file = node.filter(|node| node.kind() == Kind::File);
            (named.to_owned(), file.ok_or_else(|| DiskError::Absent(named.to_owned()))?)
        }
        None => only_disk(head)?,
    };
    if CONTAINERS.iter().any(|end| name.to_ascii_lowercase().ends_with(end)) {
        return Err(DiskError::Container(name));
    }
    match node.size() {
        bytes if bytes == 0 || !bytes.is_multiple_of(SECTOR_BYTES) => Err(DiskError::Sectors { name, bytes }),
        _ => Ok(name),
    }
}

fn only_disk(head: &Head) -> Result<(String, Node<'_>), DiskError> {
    let file = |name: &[u8], index| {
        let node = head.node(index).filter(|node| node.kind() == Kind::File)?;
        Some((std::str::from_utf8(name).ok()?.to_owned(), node))
    };
    let mut files: Vec<_> = head.entries(FileIndex::ROOT, 0).filter_map(|entry| file(entry.name, entry.node)).collect();
    // What was published as one file is that file, whatever it is called.
    if files.len() > 1 || head.node_count() > 2 {
        files.retain(|(name, _)| name.ends_with(RAW));
    }
    match files.len() {
        0 => Err(DiskError::NoDisk),
        1 => Ok(files.remove(0)),
        _ => Err(DiskError::Several(files.into_iter().map(|(name, _)| name).collect())),
    }
}

#[cfg(test)]
mod tests {
    use icbd_image::{HeadBuilder, Metadata, PagesBuilder};

    use super::*;

    fn head(files: &[(&str, u64)]) -> Head {
        let mut builder = HeadBuilder::new(Metadata::default());
        let folder = builder.directory(FileIndex::ROOT, b"boot", Metadata::default());
        let folder = if files.len() > 1 { folder.unwrap() } else { return single(files[0]) };
        for (name, size) in files {
            let (parent, name) = name.strip_prefix("boot/").map_or((FileIndex::ROOT, *name), |name| (folder, name));
            let file = builder.file(parent, name.as_bytes(), Metadata::default()).unwrap();
            builder.set_hashes(file, hashes(*size));
        }
        builder.finish().unwrap()
    }

    fn single((name, size): (&str, u64)) -> Head {
        let mut builder = HeadBuilder::new(Metadata::default());
        let file = builder.file(FileIndex::ROOT, name.as_bytes(), Metadata::default()).unwrap();
        builder.set_hashes(file, hashes(size));
        builder.finish().unwrap()
    }

    fn hashes(size: u64) -> icbd_image::FileHashes {
        let mut pages = PagesBuilder::new(size).unwrap();
        pages.push_zeros(icbd_image::block_count(size), &mut |_, _| {});
        pages.finish()
    }

    #[test]
    fn the_disk_is_the_one_that_can_be_meant() {
        let whole = head(&[("vmlinuz", 70_000), ("initrd.img", 9_000), ("disk.raw", 1 << 20), ("boot/old.raw", 512)]);
        assert_eq!(disk_of(&whole, None).unwrap(), "disk.raw");
        assert_eq!(disk_of(&whole, Some("boot/old.raw")).unwrap(), "boot/old.raw");
        assert_eq!(disk_of(&head(&[("win11.img", 1 << 20)]), None).unwrap(), "win11.img");
    }

    #[test]
    fn what_is_no_disk_is_said() {
        let tree = head(&[("vmlinuz", 70_000), ("initrd.img", 9_000)]);
        assert_eq!(disk_of(&tree, None), Err(DiskError::NoDisk));
        assert_eq!(disk_of(&tree, Some("boot")), Err(DiskError::Absent("boot".into())));
        assert_eq!(disk_of(&tree, Some("disk.raw")), Err(DiskError::Absent("disk.raw".into())));
        let two = head(&[("a.raw", 512), ("b.raw", 512)]);
        assert_eq!(disk_of(&two, None), Err(DiskError::Several(vec!["a.raw".into(), "b.raw".into()])));
        assert_eq!(disk_of(&head(&[("win11.VMDK", 512)]), None), Err(DiskError::Container("win11.VMDK".into())));
        for bytes in [0, 511, 1000] {
            let odd = DiskError::Sectors { name: "disk.raw".into(), bytes };
            assert_eq!(disk_of(&head(&[("disk.raw", bytes)]), None), Err(odd));
        }
    }
}
