//! Union holds its laws, boot sets hold what they promise, bytes are read as they were written.

use proptest::prelude::*;

use super::*;
use crate::{
    BLOCK_BYTES, FileHashes, FileIndex, Hash, Head, HeadBuilder, Metadata, PagesBuilder, Timestamp, block_count,
};

const METADATA: Metadata = Metadata { mode: 0o644, uid: 0, gid: 0, mtime: Timestamp { seconds: 0, nanoseconds: 0 } };

fn hashes(blocks: u64, salt: u64) -> FileHashes {
    let mut builder = PagesBuilder::new(blocks * BLOCK_BYTES).unwrap();
    for block in 0..block_count(blocks * BLOCK_BYTES) {
        builder.push(Hash::of(&(block ^ salt << 32).to_le_bytes()), &mut |_, _| {});
    }
    builder.finish()
}

/// A version of these files: directory ("" for the root), name and blocks.
fn head(files: &[(&str, &str, u64)], salt: u64) -> Head {
    let mut tree = HeadBuilder::new(METADATA);
    let mut directories = std::collections::BTreeMap::from([("", FileIndex::ROOT)]);
    for (directory, name, blocks) in files {
        let parent = *directories
            .entry(directory)
            .or_insert_with(|| tree.directory(FileIndex::ROOT, directory.as_bytes(), METADATA).unwrap());
        let file = tree.file(parent, name.as_bytes(), METADATA).unwrap();
        tree.set_hashes(file, hashes(*blocks, salt));
    }
    tree.finish().unwrap()
}

fn disk() -> Head {
    head(&[("", "disk.raw", 4096)], 0)
}

fn file(head: &Head, path: &str) -> FileIndex {
    head.resolve(path.as_bytes()).unwrap()
}

fn site(number: u8) -> SiteId {
    SiteId::from_bytes([number; 16])
}

fn touch(after_ms: u32, file: FileIndex, first: u64, count: u32) -> Touch {
    Touch { after_ms, file, first, count }
}

fn boot_set(profile: &Profile, head: &Head) -> Vec<(u32, u64, u32)> {
    profile.boot_set(head).iter().map(|run| (run.file.get(), run.first, run.count)).collect()
}

fn any_observation() -> impl Strategy<Value = Observation> {
    let any_touch = (0u32..40, 0u32..5, 0u64..5000, 1u32..300)
        .prop_map(|(after_ms, file, first, count)| touch(after_ms, FileIndex::new(file).unwrap(), first, count));
    let touches = prop::collection::vec(any_touch, 0..20);
    let origin = prop_oneof![Just(Origin::Own), Just(Origin::Carried)];
    // Few sites and starts, so that some are twice, and more than fifty of them.
    (0u8..5, 0u64..30, origin, touches)
        .prop_map(|(of, started, origin, touches)| Observation::new(site(of), started, origin, touches))
}

fn any_profile() -> impl Strategy<Value = Profile> {
    prop::collection::vec(any_observation(), 0..70).prop_map(|observations| {
        let mut profile = Profile::new(disk().root());
        observations.into_iter().for_each(|observation| profile.insert(observation));
        profile
    })
}

fn merged(a: &Profile, b: &Profile) -> Profile {
    let mut both = a.clone();
    let changed = both.merge(b);
    assert_eq!(changed, both != *a);
    both
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn merging_is_union(a in any_profile(), b in any_profile(), c in any_profile()) {
        prop_assert_eq!(merged(&a, &a), a.clone());
        prop_assert_eq!(merged(&a, &b), merged(&b, &a));
        prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
        prop_assert!(merged(&a, &b).observations().count() <= Profile::OBSERVATIONS_MAX);
    }

    #[test]
    fn bytes_are_read_as_they_were_written(profile in any_profile()) {
        let bytes = profile.encode();
        prop_assert_eq!(Profile::decode(&bytes).unwrap(), profile);
    }

    #[test]
    fn damage_is_noticed(profile in any_profile(), at: prop::sample::Index, bit in 0u8..8, cut: prop::sample::Index) {
        let bytes = profile.encode();
        let mut damaged = bytes.clone();
        damaged[at.index(bytes.len())] ^= 1 << bit;
        prop_assert!(Profile::decode(&damaged).is_err());
        prop_assert!(Profile::decode(&bytes[..cut.index(bytes.len())]).is_err());
    }

    /// The boot set against a count block by block.
    #[test]
    fn a_boot_set_is_what_one_in_eight_read(profile in any_profile()) {
        let head = disk();
        let disk = file(&head, "disk.raw");
        let mut blocks = Vec::new();
        for run in profile.boot_set(&head) {
            prop_assert_eq!(run.file, disk);
            blocks.extend(run.first..run.first + u64::from(run.count));
        }
        let hits = |origin, block| {
            let of: Vec<_> = profile.observations().filter(|seen| seen.origin() == origin).collect();
            let touched = |touch: &Touch| touch.file == disk && (touch.first..touch.end()).contains(&block);
            let hits = of.iter().filter(|seen| seen.touches().iter().any(touched)).count();
            hits > 0 && hits * 8 >= of.len()
        };
        let expected: Vec<u64> = (0..4096)
            .filter(|block| {
                hits(Origin::Own, *block) || profile.own_count() < 3 && hits(Origin::Carried, *block)
            })
            .collect();
        blocks.sort_unstable();
        prop_assert_eq!(blocks, expected);
    }
}

#[test]
fn a_block_read_in_one_fill_of_fifty_is_not_boot_set() {
    let head = disk();
    let disk = file(&head, "disk.raw");
    let mut profile = Profile::new(head.root());
    for fill in 0..50 {
        let odd = (fill == 7).then(|| touch(5, disk, 4000, 1));
        let touches = [touch(0, disk, 9, 3), touch(10 + fill, disk, 100, 2)].into_iter().chain(odd);
        profile.insert(Observation::new(site(fill as u8 % 4), u64::from(fill), Origin::Own, touches));
        let expected: &[_] = match fill {
            0..7 => &[(1, 9, 3), (1, 100, 2)],
            // Of eight fills and fewer, one hit is enough.
            7 => &[(1, 9, 3), (1, 100, 2), (1, 4000, 1)],
            _ => &[(1, 9, 3), (1, 100, 2)],
        };
        assert_eq!(boot_set(&profile, &head), expected, "after fill {fill}");
    }
    let times: Vec<_> = profile.boot_set(&head).iter().map(|run| run.after_ms).collect();
    assert_eq!(times, [0, 34], "the median of when it was read");
}

#[test]
fn a_successor_begins_with_what_was_learned_and_learns_its_own() {
    let old = head(&[("", "disk.raw", 4096), ("boot", "initrd", 40), ("boot", "gone", 8)], 0);
    let new = head(&[("", "a-new-one", 1), ("", "disk.raw", 2048), ("boot", "initrd", 60)], 1);
    let mut profile = Profile::new(old.root());
    let at = |path| file(&old, path);
    let touches = [
        touch(0, at("boot/initrd"), 0, 40),
        touch(1, at("boot/gone"), 0, 8),
        touch(2, at("disk.raw"), 2000, 100),
        touch(3, at("disk.raw"), 3000, 5),
    ];
    profile.insert(Observation::new(site(1), 7, Origin::Own, touches));
    let mut carried = profile.carry(&old, &new);
    let (initrd, disk) = (file(&new, "boot/initrd").get(), file(&new, "disk.raw").get());
    assert_ne!(disk, at("disk.raw").get(), "the index is another one");
    assert_eq!(boot_set(&carried, &new), [(initrd, 0, 40), (disk, 2000, 48)], "by path and position, cut at the end");
    assert_eq!((carried.root(), carried.own_count()), (new.root(), 0));
    assert!(profile.carry(&new, &old).is_empty(), "of another root nothing is said");
    for boot in 1..=3 {
        let own = [touch(0, file(&new, "boot/initrd"), 0, 60)];
        carried.insert(Observation::new(site(2), 10 + boot, Origin::Own, own));
        let expected: &[_] = if boot < 3 { &[(initrd, 0, 60), (disk, 2000, 48)] } else { &[(initrd, 0, 60)] };
        assert_eq!(boot_set(&carried, &new), expected, "after {boot} boots of its own");
    }
}

#[test]
fn everything_is_bounded() {
    let many =
        |count: u32, step: u64| (0..count).map(move |at| touch(at * 50, FileIndex::ROOT, u64::from(at) * step, 1));
    let short = Observation::new(site(1), 1, Origin::Own, many(20_000, 2));
    assert_eq!(short.touches().len(), Observation::RUNS_MAX);
    let wide =
        |at: u32| touch(u32::MAX / 20_000 * at, FileIndex::new((at % 2) << 23).unwrap(), u64::from(at) << 19, 300);
    let mut profile = Profile::new(disk().root());
    for started in 0..60 {
        profile.insert(Observation::new(site(1), started, Origin::Own, (0..20_000).map(wide)));
    }
    assert_eq!(profile.observations().next().unwrap().started(), 10, "the oldest went");
    let bytes = profile.encode();
    assert!((3 << 20..=Profile::BYTES_MAX).contains(&bytes.len()), "{}", bytes.len());
    assert_eq!(Profile::decode(&bytes), Ok(profile));
    assert_eq!(Profile::decode(&vec![0; Profile::BYTES_MAX + 1]), Err(ProfileError::Large(Profile::BYTES_MAX + 1)));
}
