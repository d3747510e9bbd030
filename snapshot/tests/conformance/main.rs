//! One suite for every kind of trees, each on a real file system of its own, and what one kind alone has.
//!
//! Needs root, loop devices, and the packages that `tests/lab/packages.sh` installs.

mod btrfs;
mod difference;
mod faults;
mod probe;
mod store;
mod streams;
mod trees;
mod usage;

/// Makes each test run on every kind of store.
macro_rules! on_every_kind {
    ($($test:path => $name:ident),+ $(,)?) => {
        on_every_kind!(@ on_btrfs Btrfs $($test => $name),+);
        on_every_kind!(@ on_packed_btrfs BtrfsPacked $($test => $name),+);
        on_every_kind!(@ reflinks_on_xfs ReflinkXfs $($test => $name),+);
        on_every_kind!(@ reflinks_on_btrfs ReflinkBtrfs $($test => $name),+);
        on_every_kind!(@ copies_on_ext4 PlainExt4 $($test => $name),+);
        on_every_kind!(@ copies_in_memory PlainTmpfs $($test => $name),+);
    };
    (@ $module:ident $ground:ident $($test:path => $name:ident),+) => {
        mod $module {
            $(#[test]
            fn $name() -> anyhow::Result<()> {
                $test(&crate::store::Store::new(crate::store::Ground::$ground)?)
            })+
        }
    };
}

on_every_kind!(
    crate::trees::stay_what_they_are => trees_stay_what_they_are,
    crate::trees::keep_everything => trees_keep_everything,
    crate::trees::are_listed => trees_are_listed,
    crate::trees::live_while_open => trees_live_while_open,
    crate::trees::are_made_side_by_side => trees_are_made_side_by_side,
    crate::trees::freeze_at_once => trees_freeze_at_once,
    crate::faults::what_is_there_stays => what_is_there_stays,
    crate::faults::what_was_deleted_by_hand_is_missed => what_was_deleted_by_hand_is_missed,
    crate::faults::what_killed_calls_left_is_removed => what_killed_calls_left_is_removed,
    crate::faults::a_full_file_system_loses_nothing => a_full_file_system_loses_nothing,
    crate::faults::a_read_only_file_system_is_named => a_read_only_file_system_is_named,
    crate::difference::is_what_the_bytes_say => differences_are_what_the_bytes_say,
    crate::difference::knows_files_that_come_and_go => differences_know_files_that_come_and_go,
    crate::usage::counts_what_deleting_frees => usage_counts_what_deleting_frees,
);
