//! The compute threads of a step.
//!
//! A job is a number of chunks and a function of a chunk's index. The caller publishes it in one
//! word, works on chunks itself, and waits only for chunks that somebody has claimed:
//!
//! ```text
//! word = job number << 32 | chunks not yet claimed
//!
//! caller   word <- (n + 1, chunks)  claim, run, claim, run ...   wait until finished = chunks
//! worker   word?  spin ... (n + 1, c)  claim: c -> c - 1, run, finished += 1 ...  spin, park
//! ```
//!
//! So a worker that is parked or descheduled never delays a job, which matters because serving
//! shares these cores. A claim names the job it belongs to, so that a late worker can't touch a
//! later job's chunks or an earlier job's function. Waiting is a short spin, then the futex: idle
//! threads burn nothing. Running a job allocates nothing.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    ptr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicPtr, AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed, SeqCst},
        },
    },
    thread::{self, JoinHandle, Thread},
    time::{Duration, Instant},
};

/// How long a thread spins for the next job before it parks: the gap between two operations of a
/// step is under a microsecond, between two steps some tens.
const SPIN: Duration = Duration::from_micros(60);

/// The most chunks of a job.
const CHUNKS_MAX: usize = u32::MAX as usize;

/// `threads - 1` workers; the caller of [`Pool::run`] is the last thread.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held by the one job that runs.
    turn: Mutex<()>,
}

/// A job as its workers see it. Lives on the caller's stack until every chunk is finished.
struct Job<'a> {
    run: &'a (dyn Fn(usize) + Sync),
    chunks: usize,
}

struct Shared {
    word: Line<AtomicU64>,
    finished: Line<AtomicUsize>,
    /// The job that `word` names.
    job: AtomicPtr<Job<'static>>,
    /// The caller once it parks for the last chunks, and whether it does.
    caller: Mutex<Option<Thread>>,
    caller_parks: AtomicBool,
    /// Whether worker `i` parks or is about to.
    parks: Box<[AtomicBool]>,
    /// What the first chunk that panicked threw.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    stop: AtomicBool,
}

/// A cache line of its own.
#[repr(align(128))]
struct Line<T>(T);

impl Pool {
    /// Starts the workers of a pool of `threads` threads, at least the caller's.
    pub(crate) fn new(threads: usize) -> Self {
        let workers = threads.max(1) - 1;
        let shared = Arc::new(Shared {
            word: Line(AtomicU64::new(0)),
            finished: Line(AtomicUsize::new(0)),
            job: AtomicPtr::new(ptr::null_mut()),
            caller: Mutex::new(None),
            caller_parks: AtomicBool::new(false),
            parks: (0..workers).map(|_| AtomicBool::new(false)).collect(),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
        });
        let start = |index: usize| {
            let shared = Arc::clone(&shared);
            thread::Builder::new()
                .name(format!("compute-{index}"))
                .spawn(move || shared.work(index))
                .expect("the system has a thread for every core")
        };
        let workers = (0..workers).map(start).collect();
        Self { shared, workers, turn: Mutex::new(()) }
    }

    /// Threads, the caller included.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `run` once for every index below `chunks`, on any thread and in any order, and returns
    /// when all have returned. A panic of one is the caller's once the others are done. Must not be
    /// called from within `run`.
    pub(crate) fn run(&self, chunks: usize, run: &(dyn Fn(usize) + Sync)) {
        if chunks <= 1 || self.workers.is_empty() {
            return (0..chunks).for_each(run);
        }
        assert!(chunks <= CHUNKS_MAX, "{chunks} chunks of a job");
        let _turn = lock(&self.turn);
        let job = Job { run, chunks };
        self.publish(&job);
        self.shared.claim_all();
        self.shared.wait_for(chunks);
        if let Some(panic) = lock(&self.shared.panic).take() {
            resume_unwind(panic);
        }
    }

    fn publish(&self, job: &Job<'_>) {
        let shared = &*self.shared;
        shared.finished.0.store(0, Relaxed);
        shared.job.store(ptr::from_ref(job).cast_mut().cast(), Relaxed);
        let number = shared.word.0.load(Relaxed) >> 32;
        shared.word.0.store((number + 1) << 32 | job.chunks as u64, SeqCst);
        // A worker says that it parks before it looks at the word a last time.
        for (parks, worker) in shared.parks.iter().zip(&self.workers).take(job.chunks - 1) {
            if parks.load(SeqCst) {
                worker.thread().unpark();
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            worker.join().expect("workers catch the panics of chunks");
        }
    }
}

impl Shared {
    fn work(&self, index: usize) {
        while !self.stop.load(SeqCst) {
            self.claim_all();
            if spin_until(|| self.has_chunks() || self.stop.load(Relaxed)) {
                continue;
            }
            self.parks[index].store(true, SeqCst);
            while !self.has_chunks() && !self.stop.load(SeqCst) {
                thread::park();
            }
            self.parks[index].store(false, Relaxed);
        }
    }

    fn has_chunks(&self) -> bool {
        self.word.0.load(SeqCst) as u32 > 0
    }

    /// Runs chunks of the current job until none is left to claim.
    fn claim_all(&self) {
        loop {
            let word = self.word.0.load(Acquire);
            if word as u32 == 0 {
                return;
            }
            let job = self.job.load(Relaxed);
            if self.word.0.compare_exchange(word, word - 1, SeqCst, Relaxed).is_err() {
                continue;
            }
            // SAFETY: the exchange succeeded, so `word` still named the job that `job` was read for
            // (the pointer changes only between jobs, before the word does), and that job's caller
            // waits for this chunk to be counted as finished below before it lets the job go.
            let job = unsafe { &*job };
            let (run, chunks) = (job.run, job.chunks);
            let chunk = chunks - (word as u32) as usize;
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(chunk))) {
                lock(&self.panic).get_or_insert(panic);
            }
            // From here on `job` may be gone.
            let finished = self.finished.0.fetch_add(1, SeqCst) + 1;
            if finished == chunks && self.caller_parks.load(SeqCst) {
                lock(&self.caller).as_ref().inspect(|caller| caller.unpark());
            }
        }
    }

    /// Waits until `chunks` chunks are finished.
    fn wait_for(&self, chunks: usize) {
        let is_finished = || self.finished.0.load(SeqCst) == chunks;
        if spin_until(is_finished) {
            return;
        }
        *lock(&self.caller) = Some(thread::current());
        self.caller_parks.store(true, SeqCst);
        while !is_finished() {
            thread::park();
        }
        self.caller_parks.store(false, Relaxed);
    }
}

/// Spins until `is_done` or [`SPIN`] is over; tells whether it was done.
fn spin_until(is_done: impl Fn() -> bool) -> bool {
    let mut started = None;
    loop {
        for _ in 0..32 {
            if is_done() {
                return true;
            }
            std::hint::spin_loop();
        }
        if started.get_or_insert_with(Instant::now).elapsed() > SPIN {
            return false;
        }
    }
}

/// Nothing here panics while it holds a lock, so a poisoned one is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_runs_exactly_once() {
        for threads in [1, 2, 3, 5] {
            let pool = Pool::new(threads);
            for chunks in [0, 1, 2, 3, 64, 1000] {
                let runs: Vec<AtomicUsize> = (0..chunks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(chunks, &|chunk| _ = runs[chunk].fetch_add(1, Relaxed));
                assert!(
                    runs.iter().all(|runs| runs.load(Relaxed) == 1),
                    "{threads} threads, {chunks} chunks"
                );
            }
        }
    }

    #[test]
    fn many_short_jobs_in_a_row_see_each_others_writes() {
        let pool = Pool::new(3);
        let cells: Vec<AtomicUsize> = (0..4).map(|_| AtomicUsize::new(0)).collect();
        for job in 0..20_000 {
            pool.run(4, &|chunk| {
                assert_eq!(cells[(chunk + job) % 4].swap(job + 1, Relaxed), job);
            });
        }
    }

    #[test]
    fn a_job_after_the_workers_have_parked_is_run() {
        let pool = Pool::new(2);
        while !pool.shared.parks[0].load(SeqCst) {
            thread::yield_now();
        }
        // The worker must take a chunk for this to end: each waits for the other.
        let both = std::sync::Barrier::new(2);
        pool.run(2, &|_| _ = both.wait());
    }

    #[test]
    fn a_panic_of_a_chunk_reaches_the_caller_and_leaves_the_pool_usable() {
        let pool = Pool::new(3);
        for bad in 0..8 {
            let done = AtomicUsize::new(0);
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.run(8, &|chunk| {
                    assert_ne!(chunk, bad, "chunk {bad} fails");
                    done.fetch_add(1, Relaxed);
                });
            }));
            let message = caught.unwrap_err().downcast::<String>().unwrap();
            assert!(message.contains(&format!("chunk {bad} fails")), "{message}");
            assert_eq!(done.load(Relaxed), 7);
        }
    }
}
