//! Moves through a repository are the model's moves, restarts and kills included.

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Area, image, publish};
use icbd_image::{Force, ImageName, Lifecycle, Move, Stage, Timestamp, VersionId, VersionNumber, VersionState};
use icbd_master::{MasterError, Plan, Repository, Settings};
use proptest::prelude::*;

const REPOSITORY: &str = "ICBD_TEST_MOVED";
const KILLS: u64 = 40;

fn number(number: u32) -> VersionNumber {
    VersionNumber::new(number).unwrap()
}

fn lab(version: u32) -> VersionId {
    VersionId { image: image("lab"), number: number(version) }
}

/// What an administrator does, and what the machine does to him.
#[derive(Debug, Clone)]
enum Op {
    Made(Move),
    Restart,
}

fn ops() -> impl Strategy<Value = Op> {
    let number = || (1u32..6).prop_map(number);
    let force = prop_oneof![Just(Force::No), Just(Force::Yes)];
    prop_oneof![
        2 => Just(Op::Made(Move::Publish)),
        4 => number().prop_map(|number| Op::Made(Move::Deploy(number))),
        3 => prop::option::of(number()).prop_map(|to| Op::Made(Move::Rollback { to })),
        3 => (number(), force).prop_map(|(number, force)| Op::Made(Move::Retire { number, force })),
        2 => number().prop_map(|number| Op::Made(Move::Restore(number))),
        1 => Just(Op::Restart),
    ]
}

/// Makes a move in a repository; what the image's versions are then.
fn make(repository: &Repository, source: &Path, made: &Move) -> Result<Lifecycle, MasterError> {
    let lab = |number: &VersionNumber| VersionId { image: image("lab"), number: *number };
    let done = match made {
        Move::Publish => {
            publish(repository, "lab", source)?;
            return repository.lifecycle(&image("lab"));
        }
        Move::Deploy(number) => repository.deploy(&lab(number)),
        Move::Rollback { to } => repository.roll_back(&image("lab"), *to),
        Move::Retire { number, force } => repository.retire(&lab(number), *force),
        Move::Restore(number) => repository.restore(&lab(number)),
        other => panic!("{other:?} is not tried here"),
    };
    done.map(|advance| advance.after)
}

/// That everybody sees of a repository what the model says.
fn compare(repository: &Repository, model: &Lifecycle) {
    let listing = repository.listing();
    let Some(record) = listing.image(&image("lab")) else {
        assert_eq!(model.versions().count(), 0);
        return;
    };
    let shown: BTreeMap<_, _> = record.versions.iter().map(|version| (version.number(), version.state)).collect();
    let kept = model.versions().filter(|(_, stage)| *stage != Stage::Removed);
    assert_eq!(shown, kept.map(|(number, stage)| (number, stage.state())).collect());
    assert_eq!((record.deployed, record.fallback), (model.deployed(), model.fallback()));
    assert_eq!(repository.lifecycle(&image("lab")).unwrap(), *model);
    let found = repository.resolve(&image("lab"), None).ok().map(|version| version.number);
    assert_eq!(found, model.deployed(), "the bare name");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    /// A master does what the life cycle says, through restarts; killed at any moment, a move was made or not.
    #[test]
    fn a_repository_does_what_the_model_does(ops in prop::collection::vec(ops(), 1..30)) {
        let area = Area::new();
        std::fs::write(area.source().join("a"), b"1").unwrap();
        let mut repository = area.open();
        let mut model = Lifecycle::new(image("lab"));
        for op in ops {
            let Op::Made(made) = op else {
                drop(repository);
                repository = area.open();
                compare(&repository, &model);
                continue;
            };
            match (model.after(&made), make(&repository, &area.source(), &made)) {
                (Ok(next), Ok(found)) => {
                    prop_assert_eq!(&found, &next, "{:?}", made);
                    model = next;
                }
                (Err(expected), Err(MasterError::Refused(refusal))) => prop_assert_eq!(refusal, expected),
                (Err(_), Err(MasterError::NoImage(_))) if model.last().is_none() => {}
                (expected, found) => prop_assert!(false, "{:?}: {:?}, and it was {:?}", made, expected, found),
            }
            compare(&repository, &model);
        }
    }
}

/// Moves without an end, the same each time: every transition there is, one after the other.
fn lap() -> Vec<Move> {
    let retire = |version| Move::Retire { number: number(version), force: Force::No };
    vec![
        Move::Deploy(number(2)),
        Move::Deploy(number(3)),
        Move::Rollback { to: None },
        Move::Rollback { to: Some(number(1)) },
        retire(3),
        Move::Restore(number(3)),
        Move::Retire { number: number(1), force: Force::Yes },
        Move::Restore(number(1)),
        Move::Deploy(number(1)),
    ]
}

fn published() -> Lifecycle {
    let start = Lifecycle::new(image("lab"));
    [Move::Publish, Move::Publish, Move::Publish].iter().fold(start, |life, made| life.after(made).unwrap())
}

/// Not a test of its own: what `a_kill_leaves_a_move_made_or_not` runs in a process that it kills.
#[test]
fn mover() {
    let Some(repository) = std::env::var_os(REPOSITORY) else { return };
    let repository = Repository::open(Path::new(&repository), Settings::default()).unwrap();
    println!("opened");
    for made in lap().iter().cycle() {
        make(&repository, Path::new("/nowhere"), made).unwrap();
        println!("made");
    }
}

/// A master does what the life cycle says, through restarts; killed at any moment, a move was made or not.
#[test]
fn a_kill_leaves_a_move_made_or_not() {
    let area = Area::new();
    std::fs::write(area.source().join("a"), b"1").unwrap();
    let repository = area.open();
    (0..3).for_each(|_| drop(publish(&repository, "lab", &area.source()).unwrap()));
    drop(repository);
    // As each lap begins from the second on.
    let first = lap().iter().fold(published(), |life, made| life.after(made).unwrap());
    let mut made_in_all = 0;
    for kill in 0..KILLS {
        let repository = Repository::open(&area.repository(), Settings::default()).unwrap();
        let back_to = Move::Deploy(number(1));
        for made in [Move::Restore(number(1)), Move::Restore(number(3)), Move::Deploy(number(2)), back_to] {
            let _ = make(&repository, &area.source(), &made);
        }
        let start = repository.lifecycle(&image("lab")).unwrap();
        assert_eq!(start.versions().collect::<Vec<_>>(), first.versions().collect::<Vec<_>>(), "kill {kill}");
        drop(repository);
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "mover", "--nocapture"]).env(REPOSITORY, area.repository());
        let mut child = child.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        assert!(lines.any(|line| line.ends_with("opened")), "the mover did not start");
        // The one thing that cannot be awaited: a moment in the middle of everything.
        std::thread::sleep(Duration::from_micros(20_000 * (kill % 20) / 19 + 500 * (kill / 20)));
        child.kill().unwrap();
        child.wait().unwrap();
        let said = lines.filter(|line| line == "made").count();
        let life = |count| lap().iter().cycle().take(count).fold(start.clone(), |life, made| life.after(made).unwrap());
        let repository = Repository::open(&area.repository(), Settings::default()).unwrap();
        let found = repository.lifecycle(&image("lab")).unwrap();
        assert!(found == life(said) || found == life(said + 1), "kill {kill} after {said} moves: {found:?}");
        compare(&repository, &found);
        made_in_all += said;
    }
    assert!(made_in_all > 0, "not one move was made in {KILLS} runs");
}

/// A version that is seen to be altered is not deployed.
#[test]
fn what_is_not_what_was_published_is_not_deployed() {
    let area = Area::new();
    for name in ["a", "b"] {
        std::fs::write(area.source().join(name), vec![7; 200_000]).unwrap();
    }
    let repository = area.open();
    for _ in 0..3 {
        publish(&repository, "lab", &area.source()).unwrap();
    }
    let place = |version: u32| area.repository().join(format!("versions/lab/{version}"));
    let refuses = |version: u32, says: &str| match repository.deploy(&lab(version)) {
        Err(error @ MasterError::Unsound { .. }) => assert!(error.to_string().contains(says), "{error}"),
        other => panic!("lab@{version}: {other:?}"),
    };
    std::fs::write(place(1).join("b"), b"shorter").unwrap();
    refuses(1, "lab@1 is not what was published: b has another");
    std::fs::remove_file(place(2).join("a")).unwrap();
    refuses(2, "a is missing");
    repository.deploy(&lab(3)).unwrap();
    let life = repository.lifecycle(&image("lab")).unwrap();
    assert_eq!((life.deployed(), life.fallback()), (Some(number(3)), None));
    // Neither is it planned to be.
    let plan = |version| Plan {
        version: lab(version),
        at: Timestamp { seconds: 4_000_000_000, nanoseconds: 0 },
        by: "alice".to_owned(),
        why: String::new(),
        failed: None,
        needs: None,
    };
    assert!(matches!(repository.plan(&plan(1)), Err(MasterError::Unsound { .. })));
    assert!(matches!(repository.plan(&plan(3)), Err(MasterError::DeployedAlready(_))));
    assert!(repository.plan(&plan(9)).unwrap_err().is_absent());
    assert_eq!(repository.plans().unwrap(), []);
}

#[test]
fn a_plan_is_kept_until_it_is_carried_out_or_given_up() {
    let area = Area::new();
    std::fs::write(area.source().join("a"), b"1").unwrap();
    let repository = area.open();
    (0..3).for_each(|_| drop(publish(&repository, "lab", &area.source()).unwrap()));
    let plan = |version, seconds| Plan {
        version: lab(version),
        at: Timestamp { seconds, nanoseconds: 0 },
        by: "alice".to_owned(),
        why: "exams are over".to_owned(),
        failed: None,
        needs: None,
    };
    assert_eq!(repository.plan(&plan(1, 10)).unwrap(), None);
    assert_eq!(repository.plan(&plan(2, 20)).unwrap(), Some(plan(1, 10)));
    drop(repository);
    let repository = area.open();
    assert_eq!(repository.plans().unwrap(), [plan(2, 20)]);
    assert_eq!(repository.cancel_plan(&lab(1)).unwrap(), None);
    repository.plan_failed(&lab(2), "it was damaged").unwrap();
    assert_eq!(repository.plans().unwrap()[0].failed.as_deref(), Some("it was damaged"));
    assert_eq!(repository.cancel_plan(&lab(2)).unwrap().map(|plan| plan.version), Some(lab(2)));
    // Deployed by whomever, it is no plan any more; another version's is.
    repository.plan(&plan(3, 30)).unwrap();
    repository.deploy(&lab(2)).unwrap();
    assert_eq!(repository.plans().unwrap(), [plan(3, 30)]);
    repository.deploy(&lab(3)).unwrap();
    assert_eq!(repository.plans().unwrap(), []);
    assert_eq!(repository.version(&lab(3)).unwrap().state, VersionState::Deployed);
    // What is to be deployed is not retired by mistake; what could not be, is in nobody's way.
    repository.plan(&plan(1, 40)).unwrap();
    assert!(matches!(repository.retire(&lab(1), Force::No), Err(MasterError::Planned(_))));
    assert_eq!(repository.plans().unwrap().len(), 1);
    repository.plan_failed(&lab(1), "it was damaged").unwrap();
    repository.retire(&lab(1), Force::No).unwrap();
    assert_eq!(repository.plans().unwrap(), []);
    repository.restore(&lab(1)).unwrap();
    repository.plan(&plan(1, 50)).unwrap();
    repository.retire(&lab(1), Force::Yes).unwrap();
    assert_eq!(repository.plans().unwrap(), []);
    let absent: ImageName = image("nowhere");
    assert!(repository.lifecycle(&absent).unwrap_err().is_absent());
}
