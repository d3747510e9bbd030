//! What the open counts promise, without a mount.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use proptest::prelude::*;

use super::*;

fn modes(fd: &OwnedFd) -> Modes<()> {
    Modes::new(Table::map(fd).unwrap(), |_| {})
}

#[test]
fn the_first_open_chooses_and_the_others_follow() {
    let modes = modes(&Table::create().unwrap());
    let first = modes.open(7, || Some((42, ())));
    assert_eq!(first, Opened { handle: Handle::Passthrough, mode: Mode::Passthrough { backing: 42 } });
    assert_eq!(modes.open(7, || panic!("nobody is asked")), first);
    modes.release(7, Handle::Passthrough, |_| panic!("one is open still"));
    let mut closed = None;
    modes.release(7, Handle::Passthrough, |backing| closed = Some(backing));
    assert_eq!(closed, Some(42));
    assert_eq!(modes.open(7, || None).mode, Mode::Cached);
    assert_eq!(modes.open(7, || panic!("cached stays cached")).mode, Mode::Cached);
    assert_eq!(modes.count(), OpenHandles { cached: 2, passthrough: 0 });
}

#[test]
fn a_successor_goes_on_where_the_killed_daemon_was() {
    let fd = Table::create().unwrap();
    let before = modes(&fd);
    before.open(7, || Some((42, ())));
    before.open(8, || None);
    before.open_small();
    // Killed between the last release and the closing of the backing id.
    before.open(9, || Some((43, ())));
    before
        .table
        .set(before.lock(shard_of(9)).open[&9].slot, Some(Held { mode: Mode::Passthrough { backing: 43 }, count: 0 }));
    drop(before);

    let mut closed = Vec::new();
    let after: Modes<()> = Modes::new(Table::map(&fd).unwrap(), |backing| closed.push(backing));
    assert_eq!(closed, [43]);
    assert_eq!(after.inherited(), [Inherited { node: 7, backing: 42 }]);
    assert_eq!(after.count(), OpenHandles { cached: 2, passthrough: 1 });
    assert_eq!(after.open(7, || panic!("still open")).mode, Mode::Passthrough { backing: 42 });
    assert_eq!(after.open(8, || panic!("still open")).mode, Mode::Cached);
    after.guard(7, ());
    assert!(after.inherited().is_empty());
    after.release(8, Handle::Cached, |_| {});
    after.release(8, Handle::Cached, |_| {});
    assert_eq!(after.open(8, || Some((44, ()))).handle, Handle::Passthrough);
}

#[test]
fn more_files_than_slots_are_read_cached_and_never_mixed() {
    let modes = modes(&Table::create().unwrap());
    let same_shard = (1u64..).filter(|node| shard_of(*node) == 3).take(SHARD_SLOTS as usize + 2).collect::<Vec<_>>();
    let (held, extra) = same_shard.split_at(SHARD_SLOTS as usize);
    for node in held {
        assert_eq!(modes.open(*node, || Some((1, ()))).handle, Handle::Passthrough);
    }
    assert_eq!(modes.open(extra[0], || panic!("no slot")).handle, Handle::Overflow);
    // A slot becomes free, but the uncounted file may not turn to passthrough while it is open.
    modes.release(held[0], Handle::Passthrough, |_| {});
    assert_eq!(modes.open(extra[0], || panic!("not counted")).handle, Handle::Overflow);
    assert_eq!(modes.open(extra[1], || panic!("may be uncounted too")).handle, Handle::Overflow);
    for node in [extra[0], extra[0], extra[1]] {
        modes.release(node, Handle::Overflow, |_| {});
    }
    assert_eq!(modes.open(extra[0], || Some((2, ()))).handle, Handle::Passthrough);
}

#[derive(Debug, Clone)]
enum Op {
    Open {
        node: u64,
        complete: bool,
    },
    Release {
        pick: usize,
    },
    /// The daemon is killed and another takes the table over.
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (1u64..6, any::<bool>()).prop_map(|(node, complete)| Op::Open { node, complete }),
        4 => any::<usize>().prop_map(|pick| Op::Release { pick }),
        1 => Just(Op::Restart),
    ]
}

proptest! {
    /// A model of the kernel's rule: at any time the open handles of a file have one mode and one backing id.
    #[test]
    fn no_two_modes_of_one_file_are_ever_open(ops in prop::collection::vec(op(), 1..200)) {
        let fd = Table::create().unwrap();
        let mut modes = modes(&fd);
        let mut kernel: Vec<(u64, Opened)> = Vec::new();
        let mut ids: HashMap<u32, u64> = HashMap::new();
        let mut next_id = 0;
        for op in ops {
            match op {
                Op::Open { node, complete } => {
                    let opened = modes.open(node, || complete.then(|| {
                        next_id += 1;
                        ids.insert(next_id, node);
                        (next_id, ())
                    }));
                    for (_, other) in kernel.iter().filter(|(other, _)| *other == node) {
                        prop_assert_eq!(*other, opened);
                    }
                    kernel.push((node, opened));
                }
                Op::Release { pick } if !kernel.is_empty() => {
                    let (node, opened) = kernel.swap_remove(pick % kernel.len());
                    modes.release(node, opened.handle, |id| assert_eq!(ids.remove(&id), Some(node)));
                }
                Op::Release { .. } => {}
                Op::Restart => modes = Modes::new(Table::map(&fd).unwrap(), |_| panic!("nothing was half closed")),
            }
            let open_ids = kernel.iter().filter_map(|(_, opened)| match opened.mode {
                Mode::Passthrough { backing } => Some(backing),
                Mode::Cached => None,
            }).collect::<std::collections::HashSet<_>>();
            prop_assert_eq!(open_ids.len(), ids.len());
            prop_assert_eq!(modes.count().passthrough + modes.count().cached, kernel.len() as u64);
        }
    }
}
