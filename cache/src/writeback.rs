//! Verified blocks on their way to the disk: written soon, synced in batches, and only then called durable.
//!
//! Two threads, each with one job. The *writer* puts each block into its backing file and sets its
//! readable bit; the *syncer* takes what was written since the last time, syncs it, then its bits. So
//! blocks are written while others are synced. The queue to the writer is bounded by the budget:
//! every block in it holds its share of memory. A block that cannot be written is dropped; its reader
//! had it before it came here.
//!
//! A block that somebody waits for is put aside for a moment first: where processors are few, a writer that is woken
//! at once writes before the waiter goes on. Whatever else is to be done finds it in the queue before itself.

mod batch;
mod gather;
mod sync;

use std::io;
use std::ops::Range;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use icbd_image::{BLOCK_BYTES, PAGE_BLOCKS, VerifiedBlock};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::disk::{Disk, DiskFile};
use crate::file::{File, SEGMENT_BLOCKS, is_lost};
use crate::health::{Health, PROBE_INTERVAL};
use batch::Batch;
use gather::Landed;

/// One fdatasync for so much: [16 MiB, 826–924 MB/s; each block by itself, 65 MB/s].
const BATCH_BYTES: u64 = 16 << 20;
/// So many files are held open by one batch at most; trees of small files fill it before its bytes.
const BATCH_FILES: usize = 256;
/// What was written is durable after this, when nothing more comes.
const IDLE: Duration = Duration::from_millis(500);
/// How long a block is put aside for: a reader's next miss is under way by then.
pub(crate) const ASIDE: Duration = Duration::from_millis(1);
/// So many are not put aside for longer: who waits for that much waits for the writer as well.
const ASIDE_BLOCKS_MAX: usize = 16;

/// The way to the writer.
#[derive(Debug)]
pub(crate) struct Writeback {
    jobs: Sender<Job>,
    /// Put aside; locked while jobs are pushed, so that nothing overtakes it.
    aside: Mutex<Vec<Landed>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

enum Job {
    Write(Landed),
    /// Zero blocks: holes, or to be made such.
    Mark {
        file: Arc<File>,
        page: u64,
        runs: Vec<Range<u64>>,
    },
    Flush(oneshot::Sender<()>),
    Stop,
}

impl Writeback {
    /// Starts both threads.
    pub(crate) fn start(disk: Arc<dyn Disk>, health: Arc<Health>) -> std::io::Result<Writeback> {
        let (jobs, queue) = channel();
        // One batch waits while another is synced; then the writer waits, and the budget stops the rest.
        let (batches, synced) = sync_channel(1);
        let writer_health = health.clone();
        let probed = disk.clone();
        let syncer =
            std::thread::Builder::new().name("icbd-sync".into()).spawn(move || sync::run(synced, &*disk, &health))?;
        let writer = std::thread::Builder::new()
            .name("icbd-write".into())
            .spawn(move || write(&queue, &batches, &*probed, &writer_health))?;
        Ok(Writeback { jobs, aside: Mutex::default(), threads: Mutex::new(vec![writer, syncer]) })
    }

    /// Takes a block that landed; its slot is settled when it is written or dropped.
    pub(crate) fn write(&self, file: Arc<File>, block: VerifiedBlock, share: OwnedSemaphorePermit) {
        self.push(Job::Write(Landed { file, block, share }));
    }

    /// The same, in a moment: whether the caller has to see that [`Writeback::take_up`] is called after [`ASIDE`].
    #[must_use]
    pub(crate) fn put_aside(&self, file: Arc<File>, block: VerifiedBlock, share: OwnedSemaphorePermit) -> bool {
        let mut aside = self.lock_aside();
        aside.push(Landed { file, block, share });
        if aside.len() >= ASIDE_BLOCKS_MAX {
            self.send_all(&mut aside);
        }
        aside.len() == 1
    }

    /// Has what was put aside written.
    pub(crate) fn take_up(&self) {
        self.send_all(&mut self.lock_aside());
    }

    /// Has zero blocks of one hash page called resident. A file asks once for each of its pages.
    pub(crate) fn mark(&self, file: Arc<File>, page: u64, runs: Vec<Range<u64>>) {
        self.push(Job::Mark { file, page, runs });
    }

    /// Waits until all that was written before is durable, or dropped.
    pub(crate) async fn flush(&self) {
        let (done, wait) = oneshot::channel();
        self.push(Job::Flush(done));
        // Without an answer the threads have stopped, after their last flush.
        let _ = wait.await;
    }

    /// Writes and syncs what is left and joins the threads. Blocks the caller.
    pub(crate) fn stop(&self) {
        self.push(Job::Stop);
        let threads = std::mem::take(&mut *self.threads.lock().expect("no panic under this lock"));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread that writes to the store panicked");
            }
        }
    }

    fn push(&self, job: Job) {
        let mut aside = self.lock_aside();
        self.send_all(&mut aside);
        self.send(job);
    }

    fn send_all(&self, aside: &mut Vec<Landed>) {
        aside.drain(..).for_each(|landed| self.send(Job::Write(landed)));
    }

    fn lock_aside(&self) -> MutexGuard<'_, Vec<Landed>> {
        self.aside.lock().expect("no panic under this lock")
    }

    /// After `stop` what comes is dropped, as at a power cut.
    fn send(&self, job: Job) {
        if let Err(error) = self.jobs.send(job)
            && let Job::Write(Landed { file, block, .. }) = error.0
        {
            file.slots().settle(block.index());
        }
    }
}

/// The writer's loop.
fn write(queue: &Receiver<Job>, batches: &SyncSender<Batch>, disk: &dyn Disk, health: &Health) {
    let mut batch = Batch::default();
    let mut due = None;
    // Taken out of the queue already.
    let mut next = None;
    loop {
        let job = match (next.take(), due) {
            (Some(next), _) => Ok(next),
            // Whoever finds the store full tells nobody: it is looked at from here, at intervals.
            (None, None) => queue.recv_timeout(PROBE_INTERVAL),
            (None, Some(due)) => queue.recv_timeout(Instant::saturating_duration_since(&due, Instant::now())),
        };
        let mut stop = false;
        let mut submit = false;
        match job {
            Ok(Job::Write(first)) => {
                batch.begin(health);
                let (landed, other) = gather::gather(first, queue);
                next = other;
                for run in gather::runs(&landed) {
                    write_run(run, &mut batch, health);
                }
            }
            Ok(Job::Mark { file, page, runs }) => {
                batch.begin(health);
                match mark_zeros(&file, &runs, health) {
                    true => runs.into_iter().for_each(|run| batch.add(&file, run)),
                    false => file.unmark_zeros(&(page * PAGE_BLOCKS..page * PAGE_BLOCKS + 1)),
                }
            }
            Ok(Job::Flush(done)) => {
                batch.waiters.push(done);
                submit = true;
            }
            Ok(Job::Stop) | Err(RecvTimeoutError::Disconnected) => (stop, submit) = (true, true),
            Err(RecvTimeoutError::Timeout) if due.is_none() => health.probe(disk),
            Err(RecvTimeoutError::Timeout) => submit = true,
        }
        due = due.or_else(|| (!batch.is_empty()).then(|| Instant::now() + IDLE));
        if submit || batch.written_blocks * BLOCK_BYTES >= BATCH_BYTES || batch.files.len() >= BATCH_FILES {
            due = None;
            if batches.send(std::mem::take(&mut batch)).is_err() {
                return;
            }
        }
        if stop {
            return;
        }
    }
}

/// Puts blocks that lie side by side into their backing file, and notes those for which that went well.
fn write_run(run: &[Landed], batch: &mut Batch, health: &Health) {
    let (file, first) = (&run[0].file, run[0].block.index());
    let blocks = first..first + run.len() as u64;
    if health.may_write() && try_write(file, blocks.clone(), run, health) {
        batch.add(file, blocks.clone());
        batch.written_blocks += run.len() as u64;
    }
    blocks.for_each(|block| file.slots().settle(block));
}

fn try_write(file: &Arc<File>, blocks: Range<u64>, run: &[Landed], health: &Health) -> bool {
    let Some(filling) = file.version().filling() else { return false };
    let parts: Vec<&[u8]> = run.iter().map(|landed| &landed.block.bytes()[..]).collect();
    let written = keep(file, |backing| {
        part_extents(backing, &blocks)?;
        backing.write(blocks.start * BLOCK_BYTES, &parts)?;
        filling.resident.set_readable(file.index(), blocks.clone());
        Ok(())
    });
    if let Err(error) = &written {
        let last = blocks.end - 1;
        health.failed(&format!("writing blocks {} to {last} of {}", blocks.start, file.shown()), error);
    }
    written.is_ok()
}

/// Sees that what is written to `blocks`, which are of one segment, is no part of an extent of the next segment or the one
/// before.
fn part_extents(backing: &dyn DiskFile, blocks: &Range<u64>) -> io::Result<()> {
    let segment = SEGMENT_BLOCKS * BLOCK_BYTES;
    if blocks.start > 0 && blocks.start.is_multiple_of(SEGMENT_BLOCKS) {
        backing.begin_writeback(blocks.start * BLOCK_BYTES - segment, segment)?;
    }
    if blocks.end.is_multiple_of(SEGMENT_BLOCKS) {
        backing.begin_writeback(blocks.end * BLOCK_BYTES, segment)?;
    }
    Ok(())
}

/// Has something kept in the backing file, under the residency guard; in a new one if somebody took it away.
fn keep(file: &Arc<File>, keep: impl Fn(&dyn DiskFile) -> io::Result<()>) -> io::Result<()> {
    // A sealed version is complete, unless something of it was forgotten: then it is to be written again.
    if let Some(filling) = file.version().filling() {
        filling.thaw(file.version())?;
    }
    let kept = || {
        let _guard = file.guard().read().expect("no panic under this lock");
        keep(&*file.whole_backing()?)
    };
    match kept() {
        Err(error) if is_lost(&error) && file.remake(&error) => kept(),
        result => result,
    }
}

/// Calls zero blocks resident; whether that went well. What may have been in their place is punched: a
/// block that was found spoilt leaves its bytes behind when it could not be punched then.
fn mark_zeros(file: &Arc<File>, runs: &[Range<u64>], health: &Health) -> bool {
    if !health.may_write() {
        return false;
    }
    let Some(filling) = file.version().filling() else { return false };
    let marked = keep(file, |backing| {
        for run in runs {
            backing.punch(run.start * BLOCK_BYTES, (run.end - run.start) * BLOCK_BYTES)?;
            filling.resident.set_readable(file.index(), run.clone());
        }
        Ok(())
    });
    if let Err(error) = &marked {
        health.failed(&format!("punching zero blocks of {}", file.shown()), error);
    }
    marked.is_ok()
}
