//! What is wrong is named, with the remedy and the exit code.

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use crate::lab::Lab;

#[test]
fn what_is_typed_wrong() {
    let lab = Lab::new();
    let publish = |image: &str, code, says: &str| {
        lab.fails(&["image", "publish", image, "tree", "--repo", "repo"], code, &[says]);
    };
    publish("a/b", 2, "contains '/'");
    publish("..", 2, "begin and end");
    publish("a\u{7}b", 2, "contains");
    publish(&"x".repeat(64), 2, "at most 63");
    lab.fails(&["image", "publish", "lab", "none", "--repo", "repo"], 3, &["none"]);
    lab.fails(&["image", "publish", "lab", "/dev/null", "--repo", "repo"], 1, &["/dev/null"]);
    lab.fails(&["image", "publish", "lab", "tree", "--repo", "repo", "--sign", "none.key"], 3, &["icbd key create"]);
    lab.fails(&["image", "publish", "lab", "tree", "--repo", "tree"], 4, &["holds other files"]);
    lab.fails(&["image", "deploy", "lab@1", "--repo", "nowhere"], 3, &["nowhere"]);
    lab.fails(&["master"], 2, &["--repo DIR"]);
    lab.fails(&["cache", "--store", "s"], 2, &["--master http://HOST:7070"]);
    lab.fails(&["cache", "--master", "ftp://x", "--store", "s"], 2, &["does not begin with http://"]);
    lab.fails(&["frobnicate"], 2, &["frobnicate"]);
}

#[test]
fn what_is_not_there() {
    let lab = Lab::new();
    lab.fails(&["status", "--socket", "none.sock"], 6, &["none.sock", "icbd master"]);
    lab.ok(&["image", "publish", "debian-lab", "tree", "--repo", "repo"]);
    let master = lab.master("repo");
    let fails = |args: &[&str], code, says: &[&str]| {
        lab.fails(&[args, &["--socket", &master.socket]].concat(), code, says);
    };
    fails(&["image", "show", "debain-lab"], 3, &["did you mean \"debian-lab\""]);
    fails(&["image", "show", "debian-lab"], 3, &["no version of debian-lab is deployed"]);
    fails(&["image", "verify", "debian-lab@7"], 3, &["there is debian-lab@1"]);
    fails(&["image", "deploy", "debian-lab@7"], 3, &["there is debian-lab@1"]);
    fails(&["image", "publish", "debian-lab", "none"], 3, &["none"]);
    let log = lab.ok(&["log", "--socket", &master.socket]);
    let failed = |what: &str, why: &str| log.lines().any(|line| line.contains(what) && line.contains(why));
    assert!(
        failed("image deploy debian-lab@7", "there is no version")
            && failed("image publish debian-lab", "there is no /")
    );
    fails(&["prefetch", "add", "debian-lab@1", "--all"], 2, &["this is a master", "cache server"]);
    // A socket that a killed daemon left behind is no daemon.
    std::fs::remove_file(lab.path("dead.sock")).ok();
    drop(std::os::unix::net::UnixListener::bind(lab.path("dead.sock")).unwrap());
    lab.fails(&["status", "--socket", "dead.sock"], 6, &["no icbd daemon answers"]);
}

#[test]
fn what_is_in_use() {
    let lab = Lab::new();
    let master = lab.master("repo");
    let address = master.address.to_string();
    let port = ["master", "--repo", "other", "--socket", "o.sock", "--listen", &address];
    lab.fails(&port, 4, &[&address, "--listen", "ss -ltnp"]);
    let repo = ["master", "--repo", "repo", "--socket", "o.sock", "--listen", "127.0.0.1:0"];
    lab.fails(&repo, 4, &["in use by process"]);
    let socket = ["master", "--repo", "other", "--socket", &master.socket, "--listen", "127.0.0.1:0"];
    lab.fails(&socket, 4, &["answers at"]);
    lab.fails(&["image", "publish", "lab", "tree", "--repo", "repo"], 4, &["in use by process"]);
    // Needs root and /dev/fuse, as the daemon itself does.
    let cache = |mount: &'static str| {
        ["cache", "--master", "http://127.0.0.1:9", "--store", "store", "--socket", "c.sock", "--mount", mount]
    };
    lab.fails(&cache("missing"), 3, &["missing", "mkdir -p"]);
    lab.fails(&cache("tree"), 4, &["tree is not empty"]);
}

/// A repository and a store have catalogues of the same name: neither daemon touches what is the other's.
#[test]
fn a_repository_is_no_store_and_a_store_is_no_repository() {
    let lab = Lab::new();
    let publish = |repo: &'static str| ["image", "publish", "lab", "tree", "--repo", repo];
    let cache = |store: &'static str| {
        ["cache", "--master", "http://127.0.0.1:9", "--store", store, "--socket", "c.sock", "--mount", "missing"]
    };
    lab.ok(&publish("repo"));
    lab.fails(&cache("repo"), 4, &["repo holds a master's repository", "--store"]);
    assert_eq!(lab.ok(&publish("repo")), "lab@2", "the repository is as it was");
    lab.fails(&cache("tree"), 4, &["tree holds other files", "--store"]);
    // Needs no mount to make its store.
    lab.fails(&cache("store"), 3, &["missing"]);
    let master = ["master", "--repo", "store", "--socket", "m.sock", "--listen", "127.0.0.1:0"];
    lab.fails(&master, 4, &["store is a cache's store", "name another directory"]);
    lab.fails(&publish("store"), 4, &["store is a cache's store"]);
    lab.fails(&["image", "deploy", "lab@1", "--repo", "store"], 4, &["store is a cache's store"]);
    lab.fails(&cache("store"), 3, &["missing"]);
    assert!(!lab.path("store/repository.lock").exists());
}

/// A bundle is made whatever runs or hangs, and holds the status of what answers.
#[test]
fn a_support_bundle_holds_the_status_and_no_keys() {
    let lab = Lab::new();
    lab.ok(&["key", "create", "sign.key"]);
    let master = lab.master("repo");
    lab.ok(&["support-bundle", "bundle.tar", "--socket", &master.socket]);
    let tar = std::fs::read(lab.path("bundle.tar")).unwrap();
    let has = |text: &str| tar.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(has("master-status.json") && has("\"role\": \"master\"") && has("mountinfo") && has("icbd.toml"));
    assert!(!has("icbd-secret-ed25519"));
    assert_eq!(lab.path("bundle.tar").metadata().unwrap().permissions().mode() & 0o777, 0o600);
    lab.fails(&["support-bundle", "bundle.tar"], 1, &["bundle.tar", "name another file"]);
}

/// A note with an escape sequence in it coloured the terminal of whoever listed it, and one with a new line made two rows.
#[test]
fn what_others_wrote_is_shown_and_not_obeyed() {
    let lab = Lab::new();
    let note = "a\u{1b}[31m\nb\u{9b}1m\u{202e}ü";
    lab.ok(&["image", "publish", "lab", "tree", "--deploy", "--repo", "repo", "-m", note]);
    let master = lab.master("repo");
    let shown = "a\\u{1b}[31m\\nb\\u{9b}1m\\u{202e}ü";
    for command in [["image", "list", "lab"], ["image", "show", "lab@1"]] {
        let out = lab.ok(&[&command[..], &["--socket", &master.socket]].concat());
        assert!(out.contains(shown), "{out}");
    }
    let json = lab.ok(&["image", "show", "lab@1", "--json", "--socket", &master.socket]);
    assert!(json.chars().all(|c| c == '\n' || !c.is_control()), "{json:?}");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["note"], note);
    lab.fails(&["image", "publish", "a\u{1b}[31m", "tree", "--repo", "repo"], 2, &["a\\u{1b}[31m"]);
}

/// Whoever closes the other end of a pipe has seen enough: no panic, and the exit code is what it would have been.
#[test]
fn closed_pipes_change_nothing() {
    let lab = Lab::new();
    let run = |args: &[&str]| lab.command(args).stdout(closed()).stderr(closed()).status().unwrap().code();
    assert_eq!(run(&["status", "--socket", "none.sock"]), Some(6));
    assert_eq!(run(&["frobnicate"]), Some(2));
    assert_eq!(run(&["--help"]), Some(0));
    assert_eq!(run(&["config", "show", "--effective"]), Some(0));
    assert_eq!(run(&["image", "publish", "lab", "tree", "--repo", "repo"]), Some(0));
}

/// A pipe that nobody reads.
fn closed() -> Stdio {
    std::io::pipe().unwrap().1.into()
}
