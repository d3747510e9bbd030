//! Working copies, pruning and nodes, as an administrator sees them.

use std::os::unix::fs::FileExt;

use serde_json::Value;

use crate::lab::Lab;

/// Edited, saved, thrown away; a second administrator is told who and since when.
#[test]
fn a_working_copy_is_edited_by_one_administrator() {
    let lab = Lab::new();
    lab.ok(&["image", "publish", "lab", "tree", "--deploy", "--repo", "repo"]);
    let master = lab.master("repo");
    let socket = ["--socket", master.socket.as_str()];
    let ok = |args: &[&str]| lab.ok(&[args, &socket].concat());
    let fails = |args: &[&str], code, says: &[&str]| lab.fails(&[args, &socket].concat(), code, says);
    fails(&["image", "save", "lab", "-m", "x"], 4, &["lab is not being edited", "icbd image edit lab"]);
    fails(&["image", "discard", "lab"], 4, &["lab is not being edited"]);
    fails(&["image", "edit", "lob"], 3, &["did you mean \"lab\""]);
    let path = ok(&["image", "edit", "lab", "-m", "new kernel"]);
    assert!(path.ends_with("repo/editing/lab"), "{path}");
    fails(&["image", "edit", "lab"], 4, &["lab is being edited by", "since 20", "icbd image discard lab"]);
    assert!(ok(&["status"]).contains(&format!(": {path}")), "{}", ok(&["status"]));
    let disk = std::fs::OpenOptions::new().write(true).open(format!("{path}/disk.raw")).unwrap();
    disk.write_all_at(b"March updates", 70_000).unwrap();
    drop(disk);
    assert_eq!(ok(&["image", "save", "lab", "-m", "March updates"]), "lab@2");
    assert!(ok(&["image", "list", "lab"]).contains("March updates"));
    assert!(ok(&["image", "verify", "lab@2"]).starts_with("lab@2: 21 blocks in "));
    assert_eq!(&master.get("/files/lab/2/disk.raw").body[70_000..70_013], b"March updates");
    assert_eq!(master.get("/files/lab/1/disk.raw").body, Lab::content());
    ok(&["image", "edit", "lab"]);
    ok(&["image", "discard", "lab"]);
    assert!(!std::path::Path::new(&path).exists() && !ok(&["status"]).contains("edited"));
    let log = ok(&["log"]);
    for what in ["image edit lab", "new kernel", "image save lab as lab@2", "image discard lab"] {
        assert!(log.contains(what), "no {what} in:\n{log}");
    }
}

/// A node that says what it uses keeps it; pruning is a dry run until `--yes`, and says why each version stays.
#[test]
fn pruning_says_why_and_never_takes_what_is_used() {
    let lab = Lab::new();
    for version in 1..=4 {
        std::fs::write(lab.path("tree/own"), vec![version; 200_000]).unwrap();
        lab.ok(&["image", "publish", "lab", "tree", "--deploy", "--repo", "repo"]);
    }
    std::fs::write(lab.path("icbd.toml"), "[retain]\nlast = 0\nyounger_than = \"0s\"\n").unwrap();
    let master = lab.master("repo");
    let socket = ["--socket", master.socket.as_str()];
    let ok = |args: &[&str]| lab.ok(&[args, &socket].concat());
    let list: Value = serde_json::from_str(&ok(&["image", "list", "--json"])).unwrap();
    let serial = list[0]["versions"][0]["serial"].to_string().replace('"', "");
    let id = "00112233-4455-4677-8899-aabbccddeeff";
    assert_eq!(master.ask("GET", "/v1/images", &[&format!("icbd-node: {id} cache-17 {serial}:2")]).status, 200);
    assert_eq!(master.ask("GET", "/v1/images", &["icbd-node: nonsense"]).status, 200);
    let nodes = || ok(&["node", "list"]);
    while !nodes().contains("lab@1 (2)") {
        std::thread::yield_now();
    }
    assert!(nodes().contains("cache-17") && nodes().contains("127.0.0.1"), "{}", nodes());
    let dry = ok(&["image", "prune"]);
    for says in
        ["used by cache-17 (2 files open)", "old, and nobody uses it", "the fallback", "deployed", "--yes does it"]
    {
        assert!(dry.contains(says), "no {says} in:\n{dry}");
    }
    assert!(ok(&["image", "list", "lab"]).contains("lab@2    ready"), "a dry run did something");
    lab.fails(&[&["image", "prune", "--force", "cache-71"][..], &socket].concat(), 3, &["cache-17"]);
    // Version 2 is retired by it, and cache-17 has not been heard since.
    ok(&["image", "prune", "--yes", "-m", "disk is full"]);
    assert!(ok(&["image", "prune"]).contains("before lab@2 was retired"), "{}", ok(&["image", "prune"]));
    assert!(lab.path("repo/versions/lab/2").exists());
    assert!(ok(&["image", "prune", "--yes", "--force", "cache-17"]).contains("removed"));
    assert!(!lab.path("repo/versions/lab/1").exists() && !lab.path("repo/versions/lab/2").exists());
    lab.fails(&[&["image", "restore", "lab@1"][..], &socket].concat(), 4, &["removed for good"]);
    assert_eq!(master.get("/files/lab/1/own").status, 404);
    lab.fails(&[&["node", "remove", "cache-17"][..], &socket].concat(), 4, &["cache-17 was heard of at", "--force"]);
    ok(&["node", "remove", "cache-17", "--force"]);
    assert!(!nodes().contains("cache-17"));
    // Of two with one name nobody guesses which is meant.
    let other = id.replace("0011", "1100");
    [id, &other].iter().for_each(|id| drop(master.ask("GET", "/v1/images", &[&format!("icbd-node: {id} cache-17")])));
    let (started, two) = (std::time::Instant::now(), || nodes().matches("cache-17").count() == 2);
    while !two() {
        assert!(started.elapsed() < std::time::Duration::from_secs(20), "{}", nodes());
        std::thread::yield_now();
    }
    for line in [&["node", "remove", "cache-17", "--force"][..], &["image", "prune", "--force", "cache-17"]] {
        lab.fails(&[line, &socket].concat(), 4, &["2 nodes are called cache-17", id, &other]);
    }
    ok(&["node", "remove", &other, "--force"]);
    assert!(nodes().contains(id) && !nodes().contains(&other));
    assert!(ok(&["log"]).contains("disk is full"));
}
