//! Disk images of other formats become sparse raw ones, or are refused.

mod common;

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;

use common::{Area, no_progress, request, run};
use icbd_image::Trust;
use icbd_master::{MasterError, PublishRequest};

const MIB: u64 = 1 << 20;

fn convert(from: &Path, format: &str, to: &Path) {
    run(Command::new("qemu-img").args(["convert", "-f", "raw", "-O", format]).args([from, to]));
}

#[test]
fn disks_of_other_formats_become_sparse_raw_ones() {
    let area = Area::new();
    let raw = area.path("disk");
    let disk = std::fs::File::create(&raw).unwrap();
    disk.set_len(64 * MIB).unwrap();
    disk.write_all_at(&vec![7; 3 << 20], 20 * MIB).unwrap();
    for format in ["qcow2", "vmdk", "vhdx"] {
        convert(&raw, format, &area.source().join(format!("{format}-disk.{format}")));
    }
    std::fs::write(area.source().join("vmlinuz"), b"as it is").unwrap();
    let repository = area.open();
    let asked = PublishRequest { raw: true, ..request("lab", &area.source()) };
    let published = repository.publish(&asked, &no_progress, &AtomicBool::new(false)).unwrap();
    let place = area.repository().join("versions/lab/1");
    let expected = std::fs::read(&raw).unwrap();
    for format in ["qcow2", "vmdk", "vhdx"] {
        let stored = place.join(format!("{format}-disk.raw"));
        assert!(std::fs::read(&stored).unwrap() == expected, "{format}");
        assert!(stored.metadata().unwrap().blocks() * 512 < 8 * MIB, "{format} is not sparse");
    }
    assert_eq!(std::fs::read(place.join("vmlinuz")).unwrap(), b"as it is");
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 4);
    let report = repository.verify(&published.version, &Trust::default(), &|_| {}, &AtomicBool::new(false)).unwrap();
    assert!(report.is_whole(), "{:?}", report.faults);
    // One file, and without being asked: as it is.
    let one = PublishRequest { raw: true, ..request("one", &area.source().join("qcow2-disk.qcow2")) };
    repository.publish(&one, &no_progress, &AtomicBool::new(false)).unwrap();
    assert!(area.repository().join("versions/one/1/qcow2-disk.raw").exists());
    repository.publish(&request("two", &area.source()), &no_progress, &AtomicBool::new(false)).unwrap();
    assert!(area.repository().join("versions/two/1/qcow2-disk.qcow2").exists());
}

#[test]
fn a_disk_that_is_not_whole_is_refused() {
    let area = Area::new();
    let (base, disk) = (area.path("base"), area.source().join("disk.qcow2"));
    std::fs::File::create(&base).unwrap().set_len(MIB).unwrap();
    let repository = area.open();
    let refused = |says: &str| {
        let asked = PublishRequest { raw: true, ..request("lab", &area.source()) };
        match repository.publish(&asked, &no_progress, &AtomicBool::new(false)) {
            Err(error @ MasterError::Disk { .. }) => assert!(error.to_string().contains(says), "{error}"),
            other => panic!("{other:?}"),
        }
    };
    run(Command::new("qemu-img").args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]).args([&base, &disk]));
    refused("based on another file");
    std::fs::write(&disk, b"QFI\xfb and nothing else").unwrap();
    refused("qemu-img cannot read it");
    std::fs::write(&disk, b"# Disk DescriptorFile\nRW 1 FLAT \"/etc/shadow\" 0\n").unwrap();
    refused("its data are in other files");
    assert!(repository.listing().images.is_empty());
    assert_eq!(common::stored(&area.repository()).0, 0, "something is left in publishing/");
}
