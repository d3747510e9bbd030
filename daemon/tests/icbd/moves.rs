//! Moves in the life of versions: made, refused, planned and logged.

use std::time::{Duration, SystemTime};

use icbd_image::Timestamp;
use serde_json::Value;

use crate::lab::Lab;

/// A lab whose repository has so many versions of the image `lab`.
fn with_versions(count: usize) -> Lab {
    let lab = Lab::new();
    (0..count).for_each(|_| drop(lab.ok(&["image", "publish", "lab", "tree", "--repo", "repo"])));
    lab
}

/// What may not follow in a version's life is refused with what to do instead, and changes nothing.
///
/// Every move that may not be made is refused with what to do instead; and all that was asked for is in the log, with
/// who and why.
#[test]
fn moves_are_made_refused_and_logged() {
    let lab = with_versions(3);
    let master = lab.master("repo");
    let args = |line: &str| -> Vec<String> {
        let words = line.split(' ').chain(["--socket", &master.socket]);
        words.map(|word| word.replace('_', " ")).collect()
    };
    let run = |line: &str| lab.ok(&args(line).iter().map(String::as_str).collect::<Vec<_>>());
    let fails = |line: &str, code, says: &[&str]| {
        lab.fails(&args(line).iter().map(String::as_str).collect::<Vec<_>>(), code, says);
    };
    fails("image rollback lab", 4, &["no version of lab was deployed before", "--to"]);
    assert_eq!(run("image deploy lab@1 -m first_day"), "lab@1");
    assert_eq!(run("image deploy lab@2"), "lab@2");
    assert!(run("image list lab").contains("lab@1    fallback"), "{}", run("image list lab"));
    assert_eq!(run("image rollback lab -m it_hung"), "lab@2 → lab@1");
    assert_eq!(run("image rollback lab"), "lab@1 → lab@2");
    fails("image retire lab@2", 4, &["lab@2 is deployed", "--force"]);
    fails("image retire lab@1", 4, &["lab@1 is kept ready to go back to from lab@2", "--force"]);
    assert_eq!(run("image retire lab@3"), "lab@3");
    assert!(run("image list lab").contains("lab@3    retiring"));
    fails("image deploy lab@3", 4, &["lab@3 is retiring", "icbd image restore lab@3"]);
    fails("image deploy lab@3 --at 02:00", 4, &["lab@3 is retiring"]);
    fails("image rollback lab --to 3", 4, &["lab@3 is retiring"]);
    fails("image retire lab@3", 4, &["lab@3 is retiring already"]);
    assert_eq!(run("image restore lab@3"), "lab@3");
    fails("image restore lab@3", 4, &["lab@3 is ready"]);
    for verb in ["deploy", "retire", "restore"] {
        fails(&format!("image {verb} lab@9"), 3, &["there is no version lab@9", "lab@3"]);
        fails(&format!("image {verb} lob@1"), 3, &["did you mean \"lab\""]);
    }
    fails("image rollback lob", 3, &["did you mean \"lab\""]);
    fails("image rollback lab --to 9", 3, &["there is no version lab@9"]);
    fails("image rollback lab --local", 2, &["this is a master"]);
    assert_eq!(run("image retire lab@2 --force"), "lab@2");
    fails("image show lab", 3, &["no version of lab is deployed"]);
    let log: Value = serde_json::from_str(&run("log --json --since 1h")).unwrap();
    let line = |what: &str| {
        let lines = log.as_array().unwrap().iter();
        let found = lines.clone().find(|line| line["what"] == what && line["result"] != "begun");
        found.unwrap_or_else(|| panic!("no {what} in {log}")).clone()
    };
    assert_eq!(
        (&line("image deploy lab@1")["why"], &line("image deploy lab@1")["result"]),
        (&"first day".into(), &"done".into())
    );
    assert_eq!(line("image rollback lab: lab@2 → lab@1")["why"], "it hung");
    assert!(line("image retire lab@1")["result"].as_str().unwrap().contains("kept ready"));
    assert!(line("image deploy lab@1")["user"].is_string());
    assert_eq!(run("log --json --since 2100-01-01"), "[]");
    let text = run("log");
    assert!(text.lines().last().unwrap().contains("image retire lab@2 --force"), "the newest is last:\n{text}");
}

/// So many seconds from now, as people write it.
fn soon(seconds: i64) -> String {
    let now = Timestamp::from(SystemTime::now());
    Timestamp { seconds: now.seconds + seconds, nanoseconds: 0 }.to_string()
}

fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let started = std::time::Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(20), "no {what} in 20 seconds");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A deployment at a time is made by a master that was down then as soon as it is up.
///
/// What is to be deployed is shown, may be given up, waits for its time, and is not forgotten by a master that was down
/// when it came.
#[test]
fn a_deployment_at_a_time_survives_a_restart_of_the_master() {
    let lab = with_versions(3);
    let master = lab.master("repo");
    let socket = ["--socket", master.socket.as_str()];
    let ok = |args: &[&str]| lab.ok(&[args, &socket].concat());
    let deployed = || {
        let list: Value = serde_json::from_str(&ok(&["image", "list", "--json"])).unwrap();
        list[0]["deployed"].as_u64()
    };
    lab.fails(&[&["image", "deploy", "lab@1", "--at", "2020-01-01"][..], &socket].concat(), 2, &["in the past"]);
    lab.fails(&[&["image", "deploy", "lab@1", "--cancel"][..], &socket].concat(), 3, &["lab@1 is not planned"]);
    let night = "2100-01-01T02:00:00Z";
    let planned = ok(&["image", "deploy", "lab@1", "--at", night, "-m", "after the exams"]);
    assert_eq!(planned, "lab@1 will be deployed at 2100-01-01 02:00:00Z");
    assert!(ok(&["image", "list", "lab"]).contains("ready, deployed at 2100-01-01 02:00:00Z"));
    assert!(ok(&["status"]).contains("lab@1 will be deployed at 2100-01-01 02:00:00Z"));
    assert!(ok(&["status"]).contains("after the exams"));
    let replaced = ok(&["image", "deploy", "lab@2", "--at", night]);
    assert!(replaced.ends_with("and not lab@1 at 2100-01-01 02:00:00Z"), "{replaced}");
    lab.fails(&[&["image", "deploy", "lab@1", "--cancel"][..], &socket].concat(), 3, &["lab@2 is"]);
    ok(&["image", "deploy", "lab@2", "--cancel"]);
    assert!(!ok(&["status"]).contains("will be deployed"));

    ok(&["image", "deploy", "lab@1", "--at", &soon(2)]);
    assert_eq!(deployed(), None);
    wait_for("deployment of lab@1", || deployed() == Some(1));
    let entry = |what: &str| {
        let log: Value = serde_json::from_str(&ok(&["log", "--json"])).unwrap();
        log.as_array().unwrap().iter().rfind(|line| line["what"] == what).cloned().unwrap()
    };
    let user = entry("image deploy lab@2 --cancel")["user"].clone();
    assert_eq!(entry("image deploy lab@1")["user"], user, "who planned it is who did it");

    ok(&["image", "deploy", "lab@2", "--at", &soon(2)]);
    let due = SystemTime::now() + Duration::from_secs(3);
    assert_eq!(master.stop(), 0);
    wait_for("time that it was planned for", || SystemTime::now() > due);
    let master = lab.master("repo");
    let socket = ["--socket", master.socket.as_str()];
    let ok = |args: &[&str]| lab.ok(&[args, &socket].concat());
    wait_for("deployment of lab@2", || ok(&["image", "list", "lab"]).contains("lab@2    deployed"));

    // What cannot be deployed any more is said, until somebody forgets it.
    ok(&["image", "deploy", "lab@3", "--at", &soon(6)]);
    lab.fails(&[&["image", "retire", "lab@3"][..], &socket].concat(), 4, &["lab@3 is to be deployed", "--cancel"]);
    std::fs::write(lab.path("repo/versions/lab/3/disk.raw"), "short").unwrap();
    wait_for("failure", || ok(&["status"]).contains("! lab@3 was to be deployed at"));
    assert!(ok(&["status"]).contains("lab@3 is not what was published"));
    ok(&["image", "deploy", "lab@3", "--cancel"]);
    assert!(!ok(&["status"]).contains("lab@3 was to be"));
}

/// A version of which something was altered is not deployed, whatever the time.
#[test]
fn what_is_not_what_was_published_is_not_deployed() {
    let lab = with_versions(2);
    std::fs::write(lab.path("repo/versions/lab/2/disk.raw"), "short").unwrap();
    let says = ["lab@2 is not what was published: disk.raw has another", "icbd image verify lab@2"];
    lab.fails(&["image", "deploy", "lab@2", "--repo", "repo"], 7, &says);
    lab.ok(&["image", "deploy", "lab@1", "--repo", "repo"]);
    lab.fails(&["image", "rollback", "lab", "--to", "2", "--repo", "repo"], 7, &says);
}
