//! What may follow what, and that nothing else ever does.

use proptest::prelude::*;

use super::*;

fn number(number: u32) -> VersionNumber {
    VersionNumber::new(number).unwrap()
}

fn retire(version: u32) -> Move {
    Move::Retire { number: number(version), force: Force::No }
}

fn force_retire(version: u32) -> Move {
    Move::Retire { number: number(version), force: Force::Yes }
}

fn deploy(version: u32) -> Move {
    Move::Deploy(number(version))
}

fn remove(version: u32) -> Move {
    Move::Remove { number: number(version), users: Vec::new() }
}

const BACK: Move = Move::Rollback { to: None };

/// What `moves` lead to; each must be allowed.
fn after(moves: &[Move]) -> Lifecycle {
    let start = Lifecycle::new("win11-lab".parse().unwrap());
    moves.iter().fold(start, |life, made| life.after(made).unwrap_or_else(|refusal| panic!("{made:?}: {refusal}")))
}

/// Deployed, fallback, and the stages of versions 1, 2, 3 …
fn check(moves: &[Move], deployed: Option<u32>, fallback: Option<u32>, stages: &[Stage]) {
    let life = after(moves);
    assert_eq!(life.deployed().map(VersionNumber::get), deployed, "{life:?}");
    assert_eq!(life.fallback().map(VersionNumber::get), fallback, "{life:?}");
    assert_eq!(life.versions().map(|(_, stage)| stage).collect::<Vec<_>>(), stages);
}

/// The words with which the last of `moves` is refused.
fn refuses(moves: &[Move], says: &[&str]) {
    let (last, before) = moves.split_last().unwrap();
    let words = after(before).after(last).expect_err("it is refused").to_string();
    assert!(says.iter().all(|part| words.contains(part)), "{words}");
}

const P: Move = Move::Publish;

#[test]
fn a_version_lives_from_ready_to_removed_and_may_come_back_before() {
    use Stage::{Archived, Deployed, Ready, Removed, Retiring};
    let archive = |version| Move::Archive { number: number(version), users: Vec::new() };
    check(&[P, P], None, None, &[Ready, Ready]);
    check(&[P, deploy(1), P, deploy(2)], Some(2), Some(1), &[Ready, Deployed]);
    check(&[P, deploy(1), deploy(1)], Some(1), None, &[Deployed]);
    // Forth and back again.
    check(&[P, P, deploy(1), deploy(2), BACK], Some(1), Some(2), &[Deployed, Ready]);
    check(&[P, P, deploy(1), deploy(2), BACK, BACK], Some(2), Some(1), &[Ready, Deployed]);
    let back_to_1 = Move::Rollback { to: Some(number(1)) };
    check(&[P, P, P, deploy(1), deploy(2), deploy(3), back_to_1], Some(1), Some(3), &[Deployed, Ready, Ready]);
    check(&[P, P, deploy(2), retire(1)], Some(2), None, &[Retiring, Deployed]);
    check(&[P, P, deploy(2), retire(1), archive(1)], Some(2), None, &[Archived, Deployed]);
    check(&[P, retire(1), Move::Restore(number(1)), deploy(1)], Some(1), None, &[Deployed]);
    check(&[P, retire(1), archive(1), Move::Restore(number(1))], None, None, &[Ready]);
    check(&[P, retire(1), archive(1), remove(1), P], None, None, &[Removed, Ready]);
    // With the last deployed version gone by force, the fallback is still there to go back to.
    check(&[P, P, deploy(1), deploy(2), force_retire(2), BACK], Some(1), None, &[Deployed, Retiring]);
    check(&[P, P, deploy(1), deploy(2), force_retire(1)], Some(2), None, &[Retiring, Deployed]);
}

#[test]
fn what_was_withdrawn_is_not_edited_as_long_as_something_else_is_in_service() {
    let edit = Move::Edit { by: "alice".into(), at: Timestamp::default() };
    let begins_as = |moves: &[Move]| {
        let life = after(moves).after(&edit).unwrap();
        life.editing().unwrap().of.map(VersionNumber::get)
    };
    let archive = Move::Archive { number: number(2), users: Vec::new() };
    assert_eq!(begins_as(&[]), None);
    assert_eq!(begins_as(&[P, P, deploy(1)]), Some(2));
    assert_eq!(begins_as(&[P, P, retire(2)]), Some(1));
    assert_eq!(begins_as(&[P, P, retire(1), retire(2), archive]), Some(2), "better than nothing");
    assert_eq!(begins_as(&[P, retire(1), Move::Archive { number: number(1), users: Vec::new() }, remove(1)]), None);
}

#[test]
fn what_may_not_be_is_refused_with_what_to_do() {
    let archive = |users: &[&str]| Move::Archive {
        number: number(1),
        users: users.iter().map(|user| (*user).to_owned()).collect(),
    };
    let restore = Move::Restore(number(1));
    refuses(&[P, deploy(2)], &["there is no version win11-lab@2"]);
    refuses(&[P, retire(1), deploy(1)], &["win11-lab@1 is retiring", "icbd image restore win11-lab@1"]);
    refuses(&[P, deploy(1), BACK], &["no version of win11-lab was deployed before", "--to"]);
    refuses(&[P, deploy(1), Move::Rollback { to: Some(number(1)) }], &["win11-lab@1 is the deployed version already"]);
    refuses(&[P, deploy(1), retire(1)], &["nobody could boot win11-lab", "deploy another version first", "--force"]);
    refuses(&[P, P, deploy(1), deploy(2), retire(1)], &["win11-lab@1 is kept ready", "from win11-lab@2", "--force"]);
    refuses(&[P, retire(1), retire(1)], &["win11-lab@1 is retiring already"]);
    refuses(&[P, restore.clone()], &["win11-lab@1 is ready"]);
    refuses(&[P, archive(&[])], &["win11-lab@1 is ready", "icbd image retire win11-lab@1"]);
    let users = ["cache-204", "cache-17 (silent since Tuesday)"];
    refuses(&[P, retire(1), archive(&users)], &["used by cache-204, cache-17 (silent since Tuesday)"]);
    refuses(&[P, retire(1), remove(1)], &["win11-lab@1 is retiring"]);
    for late in [deploy(1), retire(1), force_retire(1), restore, archive(&[]), remove(1)] {
        let removed = [P, retire(1), archive(&[]), remove(1), late];
        refuses(&removed, &["the content of win11-lab@1 was removed for good"]);
    }
}

#[test]
fn one_administrator_edits_at_a_time() {
    let edit = |by: &str| Move::Edit { by: by.into(), at: Timestamp { seconds: 86_400, nanoseconds: 0 } };
    refuses(&[edit("alice"), edit("bob")], &["edited by alice since 1970-01-02 00:00:00Z", "discard"]);
    refuses(&[Move::Save], &["not being edited", "icbd image edit win11-lab"]);
    refuses(&[edit("alice"), Move::Discard, Move::Discard], &["not being edited"]);
    let life = after(&[P, P, edit("alice"), P]);
    assert_eq!(life.editing().map(|editing| (&*editing.by, editing.of)), Some(("alice", Some(number(2)))));
    // Saved, it comes after what was published meanwhile.
    let life = life.after(&Move::Save).unwrap();
    assert_eq!((life.last(), life.stage(number(4)), life.editing()), (Some(number(4)), Some(Stage::Ready), None));
}

#[test]
fn what_was_written_down_wrong_is_set_right() {
    let stages = [(number(1), Stage::Deployed), (number(2), Stage::Deployed), (number(3), Stage::Retiring)];
    let life = Lifecycle::restore("a".parse().unwrap(), Some(number(2)), stages, Some(number(3)), None);
    assert_eq!((life.deployed(), life.fallback(), life.last()), (Some(number(2)), None, Some(number(3))));
    assert_eq!(life.stage(number(1)), Some(Stage::Ready));
}

fn moves() -> impl Strategy<Value = Move> {
    let number = || (1u32..7).prop_map(number);
    let by = || "[ab]".prop_map(String::from);
    let force = prop_oneof![Just(Force::No), Just(Force::Yes)];
    prop_oneof![
        by().prop_map(|by| Move::Edit { by, at: Timestamp::default() }),
        Just(Move::Save),
        Just(Move::Discard),
        Just(Move::Publish),
        number().prop_map(Move::Deploy),
        prop::option::of(number()).prop_map(|to| Move::Rollback { to }),
        (number(), force).prop_map(|(number, force)| Move::Retire { number, force }),
        number().prop_map(Move::Restore),
        (number(), prop::collection::vec("[xy]", 0..2)).prop_map(|(number, users)| Move::Archive { number, users }),
        (number(), prop::collection::vec("[xy]", 0..2)).prop_map(|(number, users)| Move::Remove { number, users }),
    ]
}

/// The stages that may follow one another, whatever the move.
fn may_follow(from: Stage, to: Stage) -> bool {
    use Stage::{Archived, Deployed, Ready, Removed, Retiring};
    let further: &[Stage] = match from {
        Ready => &[Deployed, Retiring],
        Deployed => &[Ready, Retiring],
        Retiring => &[Ready, Archived],
        Archived => &[Ready, Removed],
        Removed => &[],
    };
    from == to || further.contains(&to)
}

proptest! {
    /// What may not follow in a version's life is refused with what to do instead, and changes nothing.
    #[test]
    fn no_moves_lead_where_none_may_be(moves in prop::collection::vec(moves(), 0..60)) {
        let mut life = Lifecycle::new("win11-lab".parse().unwrap());
        for made in moves {
            let next = match life.after(&made) {
                Ok(next) => next,
                Err(refusal) => {
                    let words = refusal.to_string();
                    prop_assert!(words.contains("win11-lab"), "{}", words);
                    continue;
                }
            };
            let deployed: Vec<_> = next.versions().filter(|(_, stage)| *stage == Stage::Deployed).collect();
            prop_assert!(deployed.len() <= 1);
            prop_assert!(next.fallback().is_none_or(|fallback| next.stage(fallback) == Some(Stage::Ready)));
            if let (Some(before), Some(now)) = (life.deployed(), next.deployed()) && before != now {
                prop_assert_eq!(next.fallback(), Some(before));
            }
            // Nothing that somebody boots from goes at once, and nothing ever comes back from nowhere.
            for (number, stage) in life.versions() {
                let to = next.stage(number);
                prop_assert!(to.is_some_and(|to| may_follow(stage, to)), "{:?}: {:?} to {:?}", made, stage, to);
            }
            let new = next.versions().filter(|(number, _)| life.stage(*number).is_none());
            for (number, stage) in new {
                prop_assert!(stage == Stage::Ready && Some(number) == next.last() && Some(number) > life.last());
            }
            prop_assert!(next.versions().count() <= life.versions().count() + 1);
            // Written down and read again, it is the same.
            let read = Lifecycle::restore(
                "win11-lab".parse().unwrap(), next.last(), next.versions(), next.fallback(), next.editing().cloned(),
            );
            prop_assert_eq!(&read, &next);
            life = next;
        }
    }
}
