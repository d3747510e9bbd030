//! Large inputs: many small files, and one enormous sparse one. The times are printed, not judged.

mod common;

use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use common::{Area, Mounted, publish, run, stored};
use icbd_image::Trust;
use icbd_master::{Repository, Settings};

#[test]
fn fifty_thousand_small_files() {
    let area = Area::new();
    // A file system of its own: removing 100,000 files one by one takes a busy disk minutes.
    let disk = area.path("ext4.img");
    std::fs::File::create(&disk).unwrap().set_len(2 << 30).unwrap();
    run(Command::new("mkfs.ext4").args(["-q", "-N", "200000"]).arg(&disk));
    let mounted = Mounted::image(&area.path("mnt"), &disk);
    let source = area.path("mnt/source");
    for directory in 0..500 {
        let path = source.join(format!("directory-{directory}"));
        std::fs::create_dir_all(&path).unwrap();
        for file in 0..100 {
            std::fs::write(path.join(format!("file-{file}")), format!("{directory} {file}").repeat(file)).unwrap();
        }
    }
    let repository = Repository::open_or_create(&area.path("mnt/repository"), Settings::default()).unwrap();
    let started = Instant::now();
    let published = publish(&repository, "many", &source).unwrap();
    eprintln!("50,000 files published in {:?}", started.elapsed());
    assert_eq!(published.files, 50_000);
    let started = Instant::now();
    let version = published.version;
    let report = repository.verify(&version, &Trust::default(), &|_| {}, &AtomicBool::new(false)).unwrap();
    eprintln!("and verified in {:?}", started.elapsed());
    assert!(report.is_whole());
    let head = repository.head_bytes(report.root).unwrap();
    eprintln!("head: {} bytes a file", head.len() / 50_000);
    assert!(head.len() < 200 * 50_000);
    drop((repository, mounted));
}

#[test]
fn a_sparse_disk_of_one_terabyte() {
    let area = Area::new();
    let disk = std::fs::File::create(area.source().join("disk.raw")).unwrap();
    disk.set_len(1 << 40).unwrap();
    for gigabyte in [0, 1, 500, 1023] {
        disk.write_all_at(&[7; 1 << 20], gigabyte << 30).unwrap();
    }
    let repository = area.open();
    let started = Instant::now();
    let published = publish(&repository, "vast", &area.source()).unwrap();
    eprintln!("1 TiB sparse published in {:?}", started.elapsed());
    assert_eq!(published.record.data_bytes, 1 << 40);
    let disk = area.repository().join("versions/vast/1/disk.raw").metadata().unwrap();
    assert_eq!(disk.len(), 1 << 40);
    assert!(disk.blocks() * 512 < 8 << 20);
    let pages = area.repository().join(format!("manifests/{}.pages", published.record.root())).metadata().unwrap();
    assert_eq!(pages.len(), (1 << 40) / 2048);
    assert!(pages.blocks() * 512 < 1 << 20, "pages of zeros are holes");
    let started = Instant::now();
    let version = published.version;
    let report = repository.verify(&version, &Trust::default(), &|_| {}, &AtomicBool::new(false)).unwrap();
    eprintln!("and verified in {:?}", started.elapsed());
    assert!(report.is_whole());
    assert_eq!(stored(&area.repository()).0, 0);
}

/// The ten-thousandth version costs what the first did: a publish reads its own image of the catalogue only.
#[test]
fn many_small_versions() {
    let area = Area::new();
    let repository = area.open();
    let source = area.source().join("file");
    let started = Instant::now();
    for number in 0..400 {
        std::fs::write(&source, number.to_string()).unwrap();
        publish(&repository, &format!("image-{}", number % 40), &area.source()).unwrap();
    }
    eprintln!("400 small versions published in {:?}", started.elapsed());
    let listing = repository.listing();
    assert_eq!((listing.images.len(), repository.revision()), (40, 400));
    assert!(listing.images.iter().all(|image| image.versions.len() == 10));
    let version = listing.images[7].versions[3].statement.statement().version();
    repository.deploy(&version).unwrap();
    assert_eq!(listing.images[7].deployed, None, "a listing that somebody holds does not change");
    let shown = repository.listing();
    drop(repository);
    let reopened = area.open();
    assert_eq!(*shown, *reopened.listing(), "what is shown is what the catalogue says");
}
