//! What was on the disk otherwise than published: told to whoever keeps copies of what it was given.
//!
//! The one who listens is woken at once and fetches the list when it can; until then it is kept here, one
//! stretch for each file. Nothing is kept while nobody listens.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};

use icbd_image::{FileIndex, Serial};

/// Bytes of a file that may have been read otherwise than they are. They are forgotten here already: who asks for
/// them again gets the right ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spoilt {
    pub serial: Serial,
    pub file: FileIndex,
    pub bytes: Range<u64>,
}

/// What is to be told.
#[derive(Default)]
pub(crate) struct SpoiltList(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    wake: Option<Box<dyn Fn() + Send + Sync>>,
    /// At most one entry a file: a stretch from the first byte to the last. Too much costs a reader a copy.
    told: BTreeMap<(Serial, FileIndex), Range<u64>>,
}

impl SpoiltList {
    pub(crate) fn listen(&self, wake: Box<dyn Fn() + Send + Sync>) {
        self.lock().wake = Some(wake);
    }

    pub(crate) fn add(&self, serial: Serial, file: FileIndex, bytes: Range<u64>) {
        let mut inner = self.lock();
        let Inner { wake: Some(wake), told } = &mut *inner else { return };
        let stretch = told.entry((serial, file)).or_insert(bytes.clone());
        *stretch = stretch.start.min(bytes.start)..stretch.end.max(bytes.end);
        wake();
    }

    pub(crate) fn take(&self) -> Vec<Spoilt> {
        let told = std::mem::take(&mut self.lock().told);
        told.into_iter().map(|((serial, file), bytes)| Spoilt { serial, file, bytes }).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no panic under this lock")
    }
}

impl fmt::Debug for SpoiltList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpoiltList({})", self.lock().told.len())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn who_listens_is_woken_and_gets_one_stretch_a_file() {
        let (list, woken) = (SpoiltList::default(), Arc::new(AtomicU32::new(0)));
        let (serial, file) = (Serial::new(7).unwrap(), FileIndex::new(3).unwrap());
        list.add(serial, file, 0..1);
        assert_eq!(list.take(), [], "nobody listened");
        let wake = woken.clone();
        list.listen(Box::new(move || _ = wake.fetch_add(1, Ordering::Relaxed)));
        list.add(serial, file, 10..20);
        list.add(serial, file, 2..4);
        list.add(serial, FileIndex::new(1).unwrap(), 5..6);
        assert_eq!(woken.load(Ordering::Relaxed), 3);
        let spoilt = |file, bytes| Spoilt { serial, file: FileIndex::new(file).unwrap(), bytes };
        assert_eq!(list.take(), [spoilt(1, 5..6), spoilt(3, 2..20)]);
        assert_eq!(list.take(), []);
    }
}
