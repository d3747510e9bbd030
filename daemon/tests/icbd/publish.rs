//! Publishing with and without a daemon, and what the other commands show of it.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use serde_json::Value;

use crate::lab::{Lab, is_empty};

/// The first publish makes the repository; the next goes through the daemon that serves it.
#[test]
fn versions_are_numbered_listed_deployed_and_verified() {
    let lab = Lab::new();
    assert_eq!(lab.ok(&["image", "publish", "lab", "tree", "--deploy", "--repo", "repo", "-m", "first"]), "lab@1");
    let master = lab.master("repo");
    let socket = ["--socket", master.socket.as_str()];
    let ok = |args: &[&str]| lab.ok(&[args, &socket].concat());
    assert_eq!(ok(&["image", "publish", "lab", "tree/disk.raw"]), "lab@2");
    // The daemon that serves the very repository is gone through, though it is named.
    assert_eq!(ok(&["image", "publish", "lab", "tree", "--repo", "repo"]), "lab@3");
    let list: Value = serde_json::from_str(&ok(&["image", "list", "--json"])).unwrap();
    assert_eq!((&list[0]["name"], &list[0]["deployed"]), (&"lab".into(), &1.into()));
    assert_eq!(list[0]["versions"].as_array().unwrap().len(), 3);
    assert!(ok(&["image", "list", "lab"]).contains("lab@1    deployed"));
    assert_eq!(ok(&["image", "deploy", "lab@2"]), "lab@2");
    let shown: Value = serde_json::from_str(&ok(&["image", "show", "lab", "--json"])).unwrap();
    assert_eq!((&shown["version"], &shown["state"]), (&"lab@2".into(), &"deployed".into()));
    assert!(ok(&["image", "verify", "lab@1"]).starts_with("lab@1: 21 blocks in "));
    assert!(ok(&["log"]).contains("image deploy lab@2"));
    assert!(ok(&["status"]).contains("1 image, 3 versions"));
    let audit = std::fs::read_to_string(lab.path("repo/audit.jsonl")).unwrap();
    let first: Value = serde_json::from_str(audit.lines().next().unwrap()).unwrap();
    assert!(first["what"].as_str().unwrap().starts_with("image publish lab ") && first["uid"].is_u64());
    assert_eq!(master.stop(), 0);
    assert!(!lab.path("master.sock").exists());
    assert_eq!(lab.ok(&["image", "deploy", "lab@1", "--repo", "repo"]), "lab@1");
}

/// Publishes that come at the same time take turns; each gets a number of its own.
#[test]
fn publishes_at_the_same_time_take_turns() {
    let lab = Lab::new();
    let master = lab.master("repo");
    let start = |_| {
        let args = ["image", "publish", "lab", "tree", "--socket", &master.socket];
        lab.command(&args).stdout(Stdio::piped()).spawn().unwrap()
    };
    let children: Vec<_> = (0..5).map(start).collect();
    let read = |child: std::process::Child| String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    let mut printed: Vec<String> = children.into_iter().map(read).collect();
    printed.sort();
    assert_eq!(printed, ["lab@1\n", "lab@2\n", "lab@3\n", "lab@4\n", "lab@5\n"]);
}

/// A path that is no text travels to the daemon as well.
#[test]
fn a_path_need_not_be_utf8() {
    let lab = Lab::new();
    let master = lab.master("repo");
    let path = lab.path("").join(OsStr::from_bytes(b"tree-\xff"));
    std::fs::rename(lab.path("tree"), &path).unwrap();
    let args = ["image", "publish", "lab", "--socket", &master.socket];
    let output = lab.command(&args).arg(&path).output().unwrap();
    assert_eq!(output.stdout, b"lab@1\n", "{output:?}");
}

/// Ctrl-C ends a publish with 130, and nothing of it is left.
#[test]
fn an_interrupted_publish_leaves_nothing() {
    let lab = Lab::new();
    std::fs::write(lab.path("tree/big"), vec![7; 512 << 20]).unwrap();
    let master = lab.master("repo");
    let args = ["image", "publish", "lab", "tree", "--socket", &master.socket];
    let mut child = lab.command(&args).stderr(Stdio::piped()).spawn().unwrap();
    while !raw_status(&master.socket).contains("image publish lab") {
        assert!(child.try_wait().unwrap().is_none(), "it was published before it could be interrupted");
    }
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(master.status(&lab)["versions"], 0);
    assert!(is_empty(&lab.path("repo/publishing")) && is_empty(&lab.path("repo/versions")));
}

/// The status as the socket gives it: quicker than a process each time.
fn raw_status(socket: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    write!(stream, "GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}
