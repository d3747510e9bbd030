//! Each trouble has its level, and all of them one line.

use super::*;
use crate::report::testing;

fn cache() -> CacheReport {
    let Report::Cache(mut cache) = testing::cache() else { panic!("not a cache") };
    (cache.sources[0].online, cache.sources[0].error) = (Some(true), None);
    (cache.store.state, cache.store.reason) = ("ok".to_owned(), None);
    (cache.waiting, cache.warnings) = (Vec::new(), Vec::new());
    cache
}

fn check(cache: CacheReport) -> (u8, String) {
    let check = Check::of(&Report::Cache(cache));
    (check.level.code(), check.line())
}

#[test]
fn a_cache_that_is_well_says_so() {
    let expected = "ICBD OK: cache-204 is a cache with 1 of 3 versions complete, 1 of 1 sources online, \
        store 312 GiB/400 GiB, up 12 d | waiting_reads=0 offline_sources=0;;;0;1 \
        store_used=335007449088B;;;0;429496729600 fetched_bytes=0B";
    assert_eq!(check(cache()), (0, expected.to_owned()));
}

#[test]
fn each_trouble_has_its_level() {
    let expect = |spoil: &dyn Fn(&mut CacheReport), code, says: &str| {
        let mut cache = cache();
        spoil(&mut cache);
        let (found, line) = check(cache);
        assert!(found == code && line.contains(says), "{found}: {line}");
    };
    let ill = testing::cache();
    let Report::Cache(ill) = ill else { panic!("not a cache") };
    expect(
        &|cache| cache.sources = ill.sources.clone(),
        1,
        "WARNING: source http://img:7070 is offline for 9 min: con",
    );
    expect(&|cache| cache.sources[0].online = None, 1, "no source has answered yet");
    expect(&|cache| cache.store = ill.store.clone(), 1, "WARNING: the store /s is full: no space left");
    expect(&|cache| cache.store.state = "suspect".to_owned(), 2, "CRITICAL: the store /s is suspect");
    expect(&|cache| cache.mount.mounted = false, 2, "CRITICAL: /icbd is not mounted");
    let says = "1 read waits, since 12 s for debian-lab@3 disk.raw block 17 (connection refused)";
    expect(&|cache| cache.waiting = ill.waiting.clone(), 2, says);
    let soon = |cache: &mut CacheReport| {
        cache.waiting = vec![ill.waiting[0].clone(); 2];
        cache.waiting.iter_mut().for_each(|read| read.seconds = 9);
    };
    expect(&soon, 1, "WARNING: 2 reads wait, since 9 s");
    expect(&|cache| cache.warnings = ill.warnings.clone(), 1, "WARNING: debian-lab@1 is gone from the master");
}

/// The worst is said first, a few are enough, and nobody else's text ends the line or passes for figures.
#[test]
fn many_troubles_are_one_line() {
    let mut cache = cache();
    cache.warnings = (0..9).map(|at| format!("{at}\nICBD OK | x=1 {}", "é".repeat(500))).collect();
    cache.mount.mounted = false;
    let (code, line) = check(cache);
    assert!(code == 2 && line.starts_with("ICBD CRITICAL: /icbd is not mounted; 0\\nICBD OK / x=1 é"), "{line}");
    assert!(line.contains("é…; and 6 more | waiting_reads=0 ") && line.lines().count() == 1, "{line}");
    assert_eq!(line.matches('|').count(), 1);
    assert!(line.chars().count() < 2000, "{}", line.len());
}

#[test]
fn a_master_with_a_damaged_version_is_critical() {
    let Report::Master(mut master) = testing::master() else { panic!("not a master") };
    let well = Check::of(&Report::Master(master.clone()));
    assert_eq!(
        well.line(),
        "ICBD OK: img is a master of 2 images with 5 versions, up 12 d | versions=5 damaged_versions=0 sent_bytes=7B"
    );
    master.warnings = vec!["lab@1 is damaged: disk.raw".to_owned()];
    let ill = Check::of(&Report::Master(master));
    assert_eq!((ill.level.code(), ill.problems.len()), (2, 1));
    let both = Check::of(&Report::Cache(cache())).and(ill);
    assert!(both.level == Level::Critical && both.line().contains("damaged: disk.raw | waiting_reads=0"), "{both:?}");
}

#[test]
fn who_is_down_is_critical_and_who_cannot_be_asked_unknown() {
    let line = |exit, message: &str| {
        let check = Check::failed(&Failure::new(exit, message));
        (check.level.code(), check.line())
    };
    assert_eq!(line(Exit::Unreachable, "nobody\n answers\n"), (2, "ICBD CRITICAL: nobody answers".to_owned()));
    for exit in [Exit::Refused, Exit::Usage, Exit::Failed, Exit::Absent] {
        assert_eq!(line(exit, "no"), (3, "ICBD UNKNOWN: no".to_owned()));
    }
}
