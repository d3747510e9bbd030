//! Killed at any moment, a publish leaves the whole version or none, and the next start cleans up.

mod common;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use common::{Area, image, publish, stored};
use icbd_image::Trust;
use icbd_master::{Repository, Settings};

const REPOSITORY: &str = "ICBD_TEST_REPOSITORY";
const SOURCE: &str = "ICBD_TEST_SOURCE";
const KILLS: u64 = 40;

/// Not a test of its own: what `a_kill_leaves_a_whole_version_or_none` runs in a process that it kills.
#[test]
fn publisher() {
    let (Some(repository), Some(source)) = (std::env::var_os(REPOSITORY), std::env::var_os(SOURCE)) else { return };
    let repository = Repository::open(Path::new(&repository), Settings::default()).unwrap();
    println!("opened");
    loop {
        println!("published {}", publish(&repository, "killed", Path::new(&source)).unwrap().version.number);
    }
}

fn spawn(area: &Area) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "publisher", "--nocapture"]).env(REPOSITORY, area.repository()).env(SOURCE, area.source());
    child.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

/// Lets a publisher run for `after` once it is open, kills it, and returns how many versions it said it published.
fn run_and_kill(area: &Area, after: Duration) -> u64 {
    let mut child = spawn(area);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.ends_with("opened")), "the publisher did not start");
    // The one thing that cannot be awaited: a moment in the middle of everything.
    std::thread::sleep(after);
    child.kill().unwrap();
    child.wait().unwrap();
    lines.filter(|line| line.starts_with("published")).count() as u64
}

fn make_source(source: &Path) {
    for directory in 0..4 {
        std::fs::create_dir(source.join(directory.to_string())).unwrap();
        for file in 0..25 {
            std::fs::write(source.join(format!("{directory}/{file}")), vec![file as u8; 3000 * file]).unwrap();
        }
    }
    let disk = std::fs::File::create(source.join("disk.raw")).unwrap();
    disk.set_len(64 << 20).unwrap();
    disk.write_all_at(&vec![5; 6 << 20], 20 << 20).unwrap();
}

#[test]
fn a_kill_leaves_a_whole_version_or_none() {
    let area = Area::new();
    make_source(&area.source());
    let repository = area.open();
    let started = std::time::Instant::now();
    publish(&repository, "killed", &area.source()).unwrap();
    let one_publish = started.elapsed();
    drop(repository);
    let mut said = 1;
    let mut verified = 1;
    for kill in 0..KILLS {
        // Spread over two publishes, by the golden ratio: never twice at the same point.
        let part = (kill as f64 * 0.618_034).fract();
        // Each time with other content, so that each version has a manifest of its own.
        std::fs::write(area.source().join("0/0"), kill.to_string()).unwrap();
        said += run_and_kill(&area, one_publish.mul_f64(2.0 * part));
        let repository = Repository::open(&area.repository(), Settings::default()).unwrap();
        let versions = repository.listing().image(&image("killed")).unwrap().versions.clone();
        assert!(versions.len() as u64 >= said, "kill {kill}: {} of {said} versions are there", versions.len());
        said = versions.len() as u64;
        let (staging, mut trees, manifests) = stored(&area.repository());
        trees.sort();
        let id = |number| area.repository().join(format!("versions/killed/{number}"));
        let mut expected: Vec<PathBuf> = versions.iter().map(|version| id(version.number())).collect();
        expected.sort();
        let roots: BTreeSet<_> = versions.iter().map(|version| version.root()).collect();
        assert_eq!((staging, trees, manifests), (0, expected, 2 * roots.len()), "kill {kill}");
        for record in versions.iter().skip(verified) {
            let version = record.statement.statement().version();
            let report = repository.verify(&version, &Trust::default(), &|_| {}, &AtomicBool::new(false)).unwrap();
            assert!(report.is_whole(), "kill {kill}: {version}: {:?}", report.faults);
        }
        verified = versions.len();
    }
    assert!(said > 1, "not one publish came to its end in {KILLS} runs");
}

#[test]
fn only_what_an_interrupted_publish_left_is_removed() {
    let area = Area::new();
    make_source(&area.source());
    let repository = area.open();
    let published = publish(&repository, "kept", &area.source()).unwrap();
    drop(repository);
    let root = published.record.root();
    let stage = |name: &str, intent: &str| {
        let directory = area.repository().join("publishing").join(name);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("intent"), intent).unwrap();
    };
    let tree = |name: &str| std::fs::create_dir_all(area.repository().join("versions").join(name)).unwrap();
    // Died after the commit; before it, with everything moved; before it, with a root that another version has.
    stage("1", &format!("kept@1 {root}\n"));
    stage("2", &format!("kept@2 {}\n", "ab".repeat(32)));
    tree("kept/2");
    stage("3", &format!("new@1 {root}\n"));
    tree("new/1/deep");
    stage("4", "kept@1 torn");
    // Nobody's: from a catalogue that was restored to an earlier day.
    tree("kept/3");
    std::fs::write(area.repository().join(format!("manifests/{}.head", "ab".repeat(32))), b"x").unwrap();
    let repository = Repository::open(&area.repository(), Settings::default()).unwrap();
    let path = |name: &str| area.repository().join("versions").join(name);
    assert_eq!(stored(&area.repository()), (0, vec![path("kept/1"), path("kept/3")], 2));
    let report = repository.verify(&published.version, &Trust::default(), &|_| {}, &AtomicBool::new(false)).unwrap();
    assert!(report.is_whole());
    let next = publish(&repository, "kept", &area.source()).unwrap();
    assert_eq!(next.version.to_string(), "kept@2");
    // The tree that nobody knows is not overwritten.
    let after = publish(&repository, "kept", &area.source()).unwrap();
    assert_eq!(after.version.to_string(), "kept@4");
}
