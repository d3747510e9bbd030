//! Whole trees go in and come out as they went in. Needs root: devices, owners, capabilities.

mod common;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;

use common::{Area, Mounted, compare_trees, image, publish, run};
use icbd_image::Trust;
use icbd_master::{Repository, SkippedKind};

/// Every kind of node a version holds, with the attributes that are easily lost.
fn make_tree(root: &Path) {
    let path = |name: &str| root.join(name);
    let write = |name: &str, bytes: &[u8]| std::fs::write(path(name), bytes).unwrap();
    for name in ["etc/deep/er", "empty", "usr/bin", "dev", "boot", "shared"] {
        std::fs::create_dir_all(path(name)).unwrap();
    }
    write("etc/passwd", b"root:x:0:0::/root:/bin/sh\n");
    write("etc/deep/er/nothing", b"");
    write("usr/bin/ping", &vec![7; 200_000]);
    write("boot/vmlinuz-6", &(0..3_000_000u32).map(|i| (i / 7) as u8).collect::<Vec<_>>());
    std::fs::write(root.join(OsStr::from_bytes(b"odd \xff\xfe\n name")), b"!").unwrap();
    symlink("vmlinuz-6", path("boot/vmlinuz")).unwrap();
    symlink("/boot/../../boot/vmlinuz", path("vmlinuz")).unwrap();
    std::fs::hard_link(path("etc/passwd"), path("usr/passwd")).unwrap();
    std::fs::hard_link(path("etc/passwd"), path("a-first-name")).unwrap();
    std::fs::hard_link(path("vmlinuz"), path("boot/hard-link-to-a-symlink")).unwrap();
    make_disk(&path("disk.raw"));
    std::os::unix::fs::chown(path("usr/bin/ping"), Some(12), Some(34)).unwrap();
    std::os::unix::fs::lchown(path("boot/vmlinuz"), Some(56), Some(78)).unwrap();
    let mode = |name: &str, mode| std::fs::set_permissions(path(name), PermissionsExt::from_mode(mode)).unwrap();
    mode("usr/bin/ping", 0o4755);
    mode("shared", 0o3770);
    mode("empty", 0o000);
    run(Command::new("mknod").arg(path("dev/null")).args(["c", "1", "3"]));
    run(Command::new("mknod").arg(path("dev/sdzz")).args(["b", "259", "70000"]));
    let attribute = |name: &str, key: &str, value: &[u8]| xattr::set(path(name), key, value).unwrap();
    attribute("etc/passwd", "user.note", b"kept");
    attribute("etc/passwd", "user.empty", b"");
    attribute("etc/passwd", "user.icbd.resident", b"another mount's");
    attribute("usr", "trusted.any", &[0, 255, 10]);
    attribute("vmlinuz", "trusted.link", b"of the link itself");
    run(Command::new("setcap").arg("cap_net_raw+ep").arg(path("usr/bin/ping")));
    run(Command::new("setfacl").args(["-m", "u:1:r-x,g:2:rwx"]).arg(path("etc/passwd")));
    run(Command::new("setfacl").args(["-d", "-m", "u:3:rwx"]).arg(path("etc/deep")));
    let touch = |date: &str, name: &str| run(Command::new("touch").args(["-h", "-d", date]).arg(path(name)));
    touch("1969-12-31T23:59:58.123456789Z", "vmlinuz");
    touch("2001-02-03T04:05:06.000000007Z", "dev/null");
    touch("2001-02-03T04:05:06.000000008Z", "etc/deep/er");
    touch("2001-02-03T04:05:06.000000009Z", "etc/deep");
}

/// 300 MiB with a little data at its beginning, in its middle and at its end.
fn make_disk(path: &Path) {
    let disk = std::fs::File::create(path).unwrap();
    disk.set_len(300 << 20).unwrap();
    disk.write_all_at(&[1; 100_000], 0).unwrap();
    disk.write_all_at(&[2; 10], 200 << 20).unwrap();
    disk.write_all_at(&[3; 5], (300 << 20) - 5).unwrap();
}

fn verified(repository: &Repository, name: &str, number: u32) {
    let version = format!("{name}@{number}").parse().unwrap();
    let report = repository.verify(&version, &Trust::default(), &|_| {}, &AtomicBool::new(false)).unwrap();
    assert!(report.is_whole(), "{:?}", report.faults);
}

#[test]
fn a_tree_comes_out_as_it_went_in() {
    let area = Area::new();
    make_tree(&area.source());
    let repository = area.open();
    let published = publish(&repository, "debian", &area.source()).unwrap();
    let stored = area.repository().join("versions/debian/1");
    compare_trees(&area.source(), &stored);
    assert!(xattr::get(stored.join("etc/passwd"), "user.icbd.resident").unwrap().is_none());
    let disk = stored.join("disk.raw").metadata().unwrap();
    assert!(disk.blocks() * 512 < 1 << 20, "the copy is not sparse: {} blocks", disk.blocks());
    verified(&repository, "debian", 1);
    // The same tree has the same root, whenever and as whatever it is published.
    let again = publish(&repository, "other", &area.source()).unwrap();
    assert_eq!(again.record.root(), published.record.root());
    verified(&repository, "other", 1);
}

#[test]
fn one_file_is_a_version_of_one_file() {
    let area = Area::new();
    make_disk(&area.path("disk.raw"));
    symlink("disk.raw", area.path("latest")).unwrap();
    let repository = area.open();
    publish(&repository, "one", &area.path("latest")).unwrap();
    let stored = area.repository().join("versions/one/1");
    let names: Vec<_> = std::fs::read_dir(&stored).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["disk.raw"]);
    run(Command::new("cmp").arg(area.path("disk.raw")).arg(stored.join("disk.raw")));
    verified(&repository, "one", 1);
}

#[test]
fn sockets_fifos_and_mounts_are_left_out_and_told() {
    let area = Area::new();
    std::fs::write(area.source().join("file"), b"x").unwrap();
    run(Command::new("mkfifo").arg(area.source().join("fifo")));
    let _socket = std::os::unix::net::UnixListener::bind(area.source().join("socket")).unwrap();
    let _mounted = Mounted::tmpfs(&area.source().join("proc"), "size=1m");
    std::fs::write(area.source().join("proc/secret"), b"x").unwrap();
    let repository = area.open();
    let published = publish(&repository, "live", &area.source()).unwrap();
    let told: Vec<_> =
        published.skipped.iter().map(|s| (s.path.file_name().unwrap().to_str().unwrap(), s.kind)).collect();
    let expected =
        [("fifo", SkippedKind::SocketOrFifo), ("proc", SkippedKind::Mount), ("socket", SkippedKind::SocketOrFifo)];
    assert_eq!((told.as_slice(), published.skipped_count), (expected.as_slice(), 3));
    let stored = area.repository().join("versions/live/1");
    assert_eq!(std::fs::read_dir(stored.join("proc")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(stored).unwrap().count(), 2);
    verified(&repository, "live", 1);
}

#[test]
fn a_file_system_that_can_share_extents_does() {
    let area = Area::new();
    let disk = area.path("btrfs.img");
    std::fs::File::create(&disk).unwrap().set_len(512 << 20).unwrap();
    run(Command::new("mkfs.btrfs").arg("-q").arg(&disk));
    let mounted = Mounted::image(&area.path("mnt"), &disk);
    let source = area.path("mnt/source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("disk.raw"), vec![9; 200 << 20]).unwrap();
    let used = || rustix::fs::statvfs(&source).map(|stat| (stat.f_blocks - stat.f_bfree) * stat.f_frsize).unwrap();
    run(Command::new("sync").arg("-f").arg(&source));
    let before = used();
    let repository = Repository::open_or_create(&area.path("mnt/repository"), Default::default()).unwrap();
    publish(&repository, "shared", &source).unwrap();
    let grown = used() - before;
    assert!(grown < 50 << 20, "200 MiB took {grown} bytes");
    compare_trees(&source, &area.path("mnt/repository/versions/shared/1"));
    verified(&repository, "shared", 1);
    assert_eq!(repository.listing().image(&image("shared")).unwrap().versions.len(), 1);
    drop((repository, mounted));
}
