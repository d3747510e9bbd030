//! Bad input to the commands and daemons: a message that names the thing and the remedy, an exit code that scripts can
//! rely on, and nothing lost.

use std::fs::{self, File};

use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use icbd_tests::{
    CacheServer, CacheSettings, FileSystem, Lab, MIB, Master, Output, Volume, fill, icbd, icbd_path, pattern,
    run_bounded,
};
use nix::sys::stat::Mode;

const FAILED: i32 = 1;
const USAGE: i32 = 2;
const ABSENT: i32 = 3;
const REFUSED: i32 = 4;
const UNREACHABLE: i32 = 6;

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of a lab are text")
}

/// A small version published as `lab@1`, and its master.
fn site(lab: &Lab) -> Result<Master> {
    let tree = lab.folder("tree")?;
    fill(&tree.join("disk"), 1, 4 * MIB)?;
    Master::publish_offline(&lab.path("repo"), "lab", &tree, &["--deploy"])?;
    Master::start(lab, &lab.path("repo"))
}

fn publish(lab: &Lab, image: &str, path: &Path) -> Result<Output> {
    icbd(["image", "publish", image, text(path), "--repo", text(&lab.path("repo"))])
}

#[test]
fn image_names_that_are_no_names() -> Result<()> {
    let lab = Lab::new()?;
    let tree = lab.folder("tree")?;
    fs::write(tree.join("file"), "x")?;
    let long = "x".repeat(300);
    for name in ["a/b", "..", ".", "", "a\tb", "a\nb", "a\u{1b}[31m", "a b", &long] {
        let output = publish(&lab, name, &tree)?.failed_with(USAGE)?;
        ensure!(!output.stderr.contains('\u{1b}'), "a control character reached the terminal: {:?}", output.stderr);
        ensure!(output.stderr.contains("image") || output.stderr.contains("IMAGE"), "{name:?}: {}", output.stderr);
    }
    ensure!(!lab.path("repo").join("versions").exists(), "something was published");
    Ok(())
}

#[test]
fn paths_that_do_not_exist() -> Result<()> {
    let lab = Lab::new()?;
    publish(&lab, "lab", &lab.path("absent"))?.failed_with(ABSENT)?.says(&["absent"])?;
    let master = Master::start(&lab, &lab.path("repo"))?;
    let output = icbd(["image", "publish", "lab", text(&lab.path("absent")), "--socket", master.socket()])?;
    output.failed_with(ABSENT)?.says(&["absent"])?;
    Ok(())
}

/// Whatever is published while it changes is refused by name, or is exactly one of its states: never a mixture that
/// passes for a version.
#[test]
fn paths_that_change_while_they_are_published() -> Result<()> {
    let lab = Lab::new()?;
    let tree = lab.folder("tree")?;
    let busy = tree.join("busy");
    fill(&busy, 1, 64 * MIB)?;
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let writer = std::thread::spawn(move || -> Result<()> {
        let file = File::options().write(true).open(busy)?;
        let mut count = 0u64;
        while stopped.try_recv().is_err() {
            count += 1;
            file.write_all_at(&count.to_le_bytes(), (count % 1000) * 65_536)?;
        }
        Ok(())
    });
    let output = publish(&lab, "lab", &tree)?;
    stop.send(())?;
    writer.join().expect("the writer returns its failure")?;
    ensure!([FAILED, REFUSED].contains(&output.code), "exit code {}\n{}", output.code, output.stderr);
    output.says(&["busy", "changed"])?;
    // The number that failed is not used up, and nothing of it is left.
    ensure!(publish(&lab, "lab", &tree)?.ok()?.starts_with("lab@"), "publishing again");
    Ok(())
}

/// Sockets and FIFOs cannot be part of a version: they are named and left out, the rest is published.
#[test]
fn sockets_and_fifos_in_the_tree() -> Result<()> {
    let lab = Lab::new()?;
    let tree = lab.folder("tree")?;
    fs::write(tree.join("file"), "x")?;
    let _listener = UnixListener::bind(tree.join("the-socket"))?;
    nix::unistd::mkfifo(&tree.join("the-fifo"), Mode::S_IRWXU)?;
    let output = publish(&lab, "lab", &tree)?;
    ensure!([0, 8].contains(&output.code), "exit code {}\n{}", output.code, output.stderr);
    output.says(&["the-socket", "the-fifo"])?;
    publish(&lab, "lab", &tree.join("the-fifo"))?.failed_with(FAILED)?.says(&["the-fifo"])?;
    Ok(())
}

#[test]
fn a_port_that_is_in_use() -> Result<()> {
    let lab = Lab::new()?;
    let master = Master::start(&lab, &lab.path("repo"))?;
    let address = master.address().to_string();
    let (repo, socket) = (lab.path("other"), lab.path("other.sock"));
    let output = icbd(["master", "--repo", text(&repo), "--listen", &address, "--socket", text(&socket)])?;
    output.failed_with(REFUSED)?.says(&[&address, "in use"])?;
    Ok(())
}

#[test]
fn a_repository_that_another_daemon_has() -> Result<()> {
    let lab = Lab::new()?;
    let master = site(&lab)?;
    let socket = lab.path("other.sock");
    let output = icbd(["master", "--repo", text(master.repo()), "--listen", "127.0.0.1:0", "--socket", text(&socket)])?;
    output.failed_with(REFUSED)?.says(&[text(master.repo()), "in use"])?;
    let output = icbd(["image", "publish", "lab", text(&lab.path("tree")), "--repo", text(master.repo())])?;
    output.failed_with(REFUSED)?.says(&["in use", "publish"])?;
    Ok(())
}

/// The arguments of a cache server with its own mount point and socket.
fn cache_args(lab: &Lab, mount: &Path) -> Vec<String> {
    let (store, socket) = (lab.path("a-store"), lab.path("a-cache.sock"));
    [
        "cache",
        "--master",
        "http://127.0.0.1:1",
        "--store",
        text(&store),
        "--mount",
        text(mount),
        "--socket",
        text(&socket),
    ]
    .map(str::to_owned)
    .to_vec()
}

#[test]
fn mount_points_that_are_none() -> Result<()> {
    let lab = Lab::new()?;
    let missing = lab.path("missing");
    icbd(cache_args(&lab, &missing))?.failed_with(ABSENT)?.says(&["missing", "mkdir"])?;

    let full = lab.folder("full")?;
    fs::write(full.join("thesis.odt"), "precious")?;
    icbd(cache_args(&lab, &full))?.failed_with(REFUSED)?.says(&["full", "not empty"])?;
    assert_eq!(fs::read(full.join("thesis.odt"))?, b"precious");

    let file = lab.path("file");
    fs::write(&file, "")?;
    icbd(cache_args(&lab, &file))?.failed_with(REFUSED)?.says(&["file", "directory"])?;
    Ok(())
}

#[test]
fn a_mount_point_that_is_mounted_already() -> Result<()> {
    let lab = Lab::new()?;
    let volume = Volume::new(&lab, FileSystem::Ext4, 16 * MIB)?;
    icbd(cache_args(&lab, volume.path()))?.failed_with(REFUSED)?.says(&["mounted"])?;
    ensure!(lab.mounts()?.contains(&volume.path().to_owned()), "somebody's file system was unmounted");

    let master = site(&lab)?;
    let cache = CacheServer::start(&lab, &master.url())?;
    icbd(cache_args(&lab, cache.mount()))?.failed_with(REFUSED)?.says(&["already"])?;
    ensure!(fs::read(cache.path("lab/1/disk"))?.len() as u64 == 4 * MIB, "the other's mount is gone");
    Ok(())
}

/// A mount whose daemon and keeper were killed is taken down by the next start.
#[test]
fn a_mount_point_left_over_from_a_killed_daemon() -> Result<()> {
    let lab = Lab::new()?;
    let master = site(&lab)?;
    let mut cache = CacheServer::start(&lab, &master.url())?;
    ensure!(fs::read(cache.path("lab/1/disk"))? == pattern(1, 0, 4 * MIB as usize), "wrong bytes");
    cache.daemon.kill_all()?;
    ensure!(fs::read_dir(cache.mount()).is_err(), "the mount of a killed daemon answers");
    cache.start_again(&lab)?;
    cache.daemon.allow_log("left behind");
    ensure!(fs::read(cache.path("lab/1/disk"))? == pattern(1, 0, 4 * MIB as usize), "wrong bytes after the restart");
    Ok(())
}

#[test]
fn a_store_that_another_daemon_has() -> Result<()> {
    let lab = Lab::new()?;
    let master = site(&lab)?;
    let cache = CacheServer::start(&lab, &master.url())?;
    let (mount, socket) = (lab.folder("mount")?, lab.path("second.sock"));
    let output = icbd([
        "cache",
        "--master",
        &master.url(),
        "--store",
        text(cache.store()),
        "--mount",
        text(&mount),
        "--socket",
        text(&socket),
    ])?;
    output.failed_with(REFUSED)?.says(&[text(cache.store()), "use"])?;
    ensure!(fs::read_dir(&mount)?.next().is_none(), "the second daemon left something behind");
    Ok(())
}

#[test]
fn commands_without_a_daemon() -> Result<()> {
    let lab = Lab::new()?;
    let socket = lab.path("nobody.sock");
    for args in [&["status"][..], &["image", "list"], &["image", "show", "lab@1"], &["prefetch", "list"]] {
        icbd([args, &["--socket", text(&socket)]].concat())?.failed_with(UNREACHABLE)?.says(&["nobody.sock"])?;
    }
    Ok(())
}

/// A verb of the other role is a usage error that says where to run it.
#[test]
fn verbs_of_the_other_role() -> Result<()> {
    let lab = Lab::new()?;
    let master = site(&lab)?;
    let cache = CacheServer::start(&lab, &master.url())?;
    cache.command(&["image", "publish", "lab", text(&lab.path("tree"))])?.failed_with(USAGE)?.says(&["master"])?;
    cache.command(&["image", "deploy", "lab@1"])?.failed_with(USAGE)?.says(&["master"])?;
    icbd(["prefetch", "list", "--socket", master.socket()])?.failed_with(USAGE)?.says(&["cache"])?;
    Ok(())
}

/// Unsigned versions are refused where signatures are required, and shown again once they are signed by a trusted key.
#[test]
fn unsigned_versions_where_signatures_are_required() -> Result<()> {
    let lab = Lab::new()?;
    let master = site(&lab)?;
    let (key, keys) = (lab.path("sign.key"), lab.folder("trusted")?);
    icbd(["key", "create", text(&key)])?.ok()?;
    fs::copy(lab.path("sign.key.pub"), keys.join("publisher.pub"))?;
    let config = format!("[trust]\nkeys = [\"{}/*.pub\"]\nrequire = true\n", keys.display());
    let cache = CacheServer::start_with(&lab, &[&master.url()], &CacheSettings { config, ..Default::default() })?;
    cache.daemon.allow_log("sign");
    ensure!(fs::metadata(cache.path("lab/1/disk")).is_err(), "an unsigned version is shown");
    master.publish("lab", &lab.path("tree"), &["--sign", text(&key), "--deploy"])?;
    icbd_tests::wait_for("the signed version", || Ok(fs::metadata(cache.path("lab/2/disk")).ok()))?;
    ensure!(fs::read(cache.path("lab/current/disk"))? == pattern(1, 0, 4 * MIB as usize), "wrong bytes");
    ensure!(fs::metadata(cache.path("lab/1/disk")).is_err(), "the unsigned version came with it");
    Ok(())
}

#[test]
fn configuration_files_with_mistakes() -> Result<()> {
    let lab = Lab::new()?;
    let config = lab.path("icbd.toml");
    for (content, words) in [
        ("[mount]\noffline_wait = \"soon\"\n", "offline_wait"),
        ("[mount]\npaht = \"/icbd\"\n", "paht"),
        ("role = \"king\"\n", "king"),
        ("[[source]\n", "icbd.toml"),
    ] {
        fs::write(&config, content)?;
        icbd(["config", "check", "--config", text(&config)])?.failed_with(USAGE)?.says(&["icbd.toml", words])?;
        icbd(["cache", "--config", text(&config)])?.failed_with(USAGE)?.says(&[words])?;
    }
    icbd(["config", "check", "--config", text(&lab.path("none.toml"))])?.says(&["none.toml"])?;
    Ok(())
}

/// A support bundle is written, also when no daemon answers.
#[test]
fn a_support_bundle_without_a_daemon() -> Result<()> {
    let lab = Lab::new()?;
    let bundle = lab.path("bundle.tar");
    let mut command = Command::new(icbd_path()?);
    command.args(["support-bundle", text(&bundle), "--socket", text(&lab.path("nobody.sock"))]);
    run_bounded(command, Duration::from_secs(60))?;
    let mut tar = Command::new("tar");
    tar.arg("-tf").arg(&bundle);
    ensure!(!run_bounded(tar, Duration::from_secs(20))?.ok()?.is_empty(), "the bundle is empty");
    Ok(())
}

/// What passes for a Linux to those who make a boot package: its programs do as little as they can.
fn little_linux(root: &Path) -> Result<()> {
    for folder in ["bin", "boot", "dev", "etc", "lib/modules/6.1", "proc", "tmp", "usr/sbin"] {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::copy("/usr/bin/busybox", root.join("bin/sh"))?;
    fs::write(root.join("lib/modules/6.1/modules.builtin"), "kernel/drivers/net/loopback.ko\n")?;
    for (program, script) in [
        ("mkinitramfs", "echo initramfs >\"$2\""),
        ("lsinitramfs", "echo usr/lib/modules/6.1/kernel/drivers/net/ethernet/intel/e1000e/e1000e.ko"),
    ] {
        let path = root.join("usr/sbin").join(program);
        fs::write(&path, format!("#!/bin/sh\n{script}\n"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// A boot package that cannot be made is refused by the name of what is missing, and the image stays as it was.
#[test]
fn boot_packages_of_what_does_not_boot() -> Result<()> {
    let lab = Lab::new()?;
    let tree = lab.folder("tree")?;
    fs::write(tree.join("file"), "x")?;
    let master = Master::start(&lab, &lab.path("repo"))?;
    let make = |image: &str, more: &[&str]| master.command(&[&["image", "boot-package", image][..], more].concat());
    let refused = |image: &str, more: &[&str], says: &str| -> Result<()> {
        make(image, more)?.failed_with(REFUSED)?.says(&[says])?;
        // Nothing was begun that somebody has to end.
        master.command(&["image", "discard", image])?.failed_with(REFUSED)?.says(&["is not being edited"]).map(drop)
    };
    make("none", &[])?.failed_with(ABSENT)?.says(&["none"])?;
    master.publish("files", &tree, &["--deploy"])?;
    refused("files", &[], "there is no Linux in this version")?;
    fs::create_dir(tree.join("etc"))?;
    fs::write(tree.join("etc/os-release"), "ID=lab\n")?;
    master.publish("bare", &tree, &["--deploy"])?;
    refused("bare", &[], "install initramfs-tools in it")?;
    little_linux(&tree)?;
    master.publish("headless", &tree, &["--deploy"])?;
    refused("headless", &[], "this Linux has no kernel (boot/vmlinuz-*, with its modules)")?;
    fs::write(tree.join("boot/vmlinuz-6.1"), "kernel")?;
    master.publish("whole", &tree, &["--deploy"])?;
    refused("whole", &["--kernel", "6.9"], "there is no boot/vmlinuz-6.9; there is: vmlinuz-6.1")?;
    refused("whole", &["--driver", "e1000e", "--driver", "nosuch"], "the initramfs has no driver nosuch")?;
    make("whole", &["--driver", "no such"])?.failed_with(USAGE)?.says(&["e1000e"])?;
    make("whole", &["--cmdline", "a;b"])?.failed_with(USAGE)?.says(&["';'"])?;
    make("whole", &["--rw", "disk"])?.failed_with(USAGE)?.says(&["ram:2G"])?;
    // Of all that failed no number is used up.
    ensure!(make("whole", &["--driver", "e1000e", "--driver", "loopback"])?.ok()?.trim() == "whole@2");
    Ok(())
}
