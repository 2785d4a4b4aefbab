//! A small pool of threads for work that is forked and joined thousands of times a second.
//!
//! [`Pool::run`] hands task numbers out from one counter; the calling thread takes part. Workers that find nothing
//! spin for at most [`SPIN`] and then park, so that an idle pool costs nothing. A worker takes part only if it
//! arrives while the run is open: a late one never delays the caller.
//!
//! Invariant: `state` counts the workers inside; the caller publishes a job only while nobody is inside and the run
//! is closed, and returns only after closing the run and seeing nobody inside. Between these the job is not written.
//! A second `run` while one is under way, nested or from another thread, runs on the calling thread alone.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How long a thread looks for work before it sleeps.
const SPIN: Duration = Duration::from_micros(50);

/// Low bits of `state`: how many workers are inside.
const INSIDE: u64 = (1 << 31) - 1;
/// Set while workers may enter.
const OPEN: u64 = 1 << 31;
/// What one run adds to the generation in the high bits.
const GENERATION: u64 = 1 << 32;

type Work = dyn Fn(usize) + Sync;

/// What is being run. The pointer is only followed by threads inside an open run.
struct Job {
    work: *const Work,
    tasks: usize,
    caller: Thread,
}

struct Common {
    state: AtomicU64,
    next: AtomicUsize,
    job: UnsafeCell<Option<Job>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    busy: AtomicBool,
    stop: AtomicBool,
    parked: Vec<AtomicBool>,
}

// SAFETY: `job` is the only field without its own synchronisation; it is written while `busy` is held, the run is
// closed and nobody is inside, and read only by threads that entered the open run through `state` (acquire/release).
unsafe impl Sync for Common {}
// SAFETY: the raw pointer in `job` is to `Sync` work, followed only while the caller of `run` keeps it alive.
unsafe impl Send for Common {}

/// Threads that share out numbered tasks.
pub struct Pool {
    common: Arc<Common>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// `threads` in all, the calling thread included; none counts as one. Fewer where the system starts no more, as
    /// [`Pool::threads`] says: results do not depend on their number.
    pub fn new(threads: usize) -> Self {
        let others = threads.max(1) - 1;
        let common = Arc::new(Common {
            state: AtomicU64::new(0),
            next: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            panic: Mutex::new(None),
            busy: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            parked: (0..others).map(|_| AtomicBool::new(false)).collect(),
        });
        let workers = (0..others).map_while(|index| {
            let common = common.clone();
            let worker = thread::Builder::new().name(format!("kvant-{}", index + 1));
            worker.spawn(move || common.serve(index)).ok()
        });
        let workers = workers.collect();
        Self { common, workers }
    }

    /// How many threads work, the calling one included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `work` with each of `0..tasks` once, in any order, and returns when all are done.
    ///
    /// A panic in a task stops further tasks from starting and goes on in the caller.
    pub fn run(&self, tasks: usize, work: &(dyn Fn(usize) + Sync)) {
        let common = &*self.common;
        if tasks <= 1 || self.workers.is_empty() || common.busy.swap(true, Ordering::Acquire) {
            (0..tasks).for_each(work);
            return;
        }
        // SAFETY: only the lifetime changes. `finish` below runs before this function returns or unwinds, and after
        // it no thread holds the pointer.
        let work: *const Work =
            unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync), *const Work>(work) };
        // SAFETY: `busy` is ours, the run is closed and nobody is inside, so no one else looks at the job.
        unsafe { *common.job.get() = Some(Job { work, tasks, caller: thread::current() }) };
        common.next.store(0, Ordering::Relaxed);
        // Sequentially consistent together with a worker's `parked` flag: either it sees this run or we see it parked.
        common.state.fetch_add(GENERATION | OPEN, Ordering::SeqCst);
        for (worker, parked) in self.workers.iter().zip(&common.parked).take(tasks - 1) {
            if parked.swap(false, Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        common.take_part();
        common.state.fetch_and(!OPEN, Ordering::AcqRel);
        wait(|| common.state.load(Ordering::Acquire) & INSIDE == 0, thread::park);
        let panic = common.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        common.busy.store(false, Ordering::Release);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.common.stop.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches every panic of a task, so there is nothing to pass on.
            let _ = worker.join();
        }
    }
}

impl Common {
    /// A worker's life.
    fn serve(&self, index: usize) {
        let mut seen = 0;
        loop {
            // The end is asked for by itself: a generation counts as seen even where its run was missed.
            let news =
                || self.stop.load(Ordering::SeqCst) || self.state.load(Ordering::SeqCst) / GENERATION != seen;
            wait(news, || {
                self.parked[index].store(true, Ordering::SeqCst);
                if !news() {
                    thread::park();
                }
                self.parked[index].store(false, Ordering::SeqCst);
            });
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            let mut state = self.state.load(Ordering::Acquire);
            loop {
                seen = state / GENERATION;
                if state & OPEN == 0 {
                    break;
                }
                match self.state.compare_exchange_weak(state, state + 1, Ordering::AcqRel, Ordering::Acquire)
                {
                    Ok(_) => {
                        let caller = self.take_part();
                        let before = self.state.fetch_sub(1, Ordering::AcqRel);
                        if before & (OPEN | INSIDE) == 1 {
                            caller.unpark();
                        }
                        break;
                    }
                    Err(now) => state = now,
                }
            }
        }
    }

    /// Works until no task is left; the caller's thread, to wake it. Only inside an open run.
    fn take_part(&self) -> Thread {
        // SAFETY: we are inside (or are the caller), so the job was written before the run opened and stays.
        let job = unsafe { (*self.job.get()).as_ref() }.expect("an open run has a job");
        // SAFETY: the caller of `run` keeps the work alive until nobody is inside.
        let work = unsafe { &*job.work };
        loop {
            let task = self.next.fetch_add(1, Ordering::Relaxed);
            if task >= job.tasks {
                return job.caller.clone();
            }
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| work(task))) {
                self.next.store(job.tasks, Ordering::Relaxed);
                self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(payload);
            }
        }
    }
}

/// Returns once `ready`: spins first, then calls `sleep` as often as needed.
fn wait(ready: impl Fn() -> bool, sleep: impl Fn()) {
    let mut begin = None;
    loop {
        for _ in 0..64 {
            if ready() {
                return;
            }
            std::hint::spin_loop();
        }
        if begin.get_or_insert_with(Instant::now).elapsed() >= SPIN {
            break;
        }
    }
    while !ready() {
        sleep();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for threads in 0..=5 {
            let pool = Pool::new(threads);
            assert_eq!(pool.threads(), threads.max(1));
            for tasks in [0, 1, 2, 3, 7, 100] {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, &|i| {
                    counts[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(
                    counts.iter().all(|c| c.load(Ordering::Relaxed) == 1),
                    "{threads} threads, {tasks} tasks"
                );
            }
        }
    }

    #[test]
    fn many_small_runs_with_and_without_sleep_between() {
        let pool = Pool::new(4);
        let sum = AtomicUsize::new(0);
        for run in 0..5000 {
            pool.run(4, &|i| {
                sum.fetch_add(i, Ordering::Relaxed);
            });
            if run % 500 == 0 {
                thread::sleep(SPIN * 4);
            }
        }
        assert_eq!(sum.into_inner(), 5000 * 6);
    }

    #[test]
    fn a_pool_dropped_while_workers_still_arrive_ends() {
        let (done, ended) = std::sync::mpsc::channel();
        thread::spawn(move || {
            for round in 0..4_000 {
                let pool = Pool::new(2 + round % 3);
                pool.run(4, &|_| {});
                drop(pool);
            }
            done.send(()).unwrap();
        });
        ended.recv_timeout(Duration::from_secs(120)).expect("every pool's workers end");
    }

    #[test]
    fn a_run_inside_a_run_and_runs_from_several_threads() {
        let pool = Pool::new(3);
        let sum = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        pool.run(5, &|_| {
                            pool.run(3, &|i| {
                                sum.fetch_add(i, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 3 * 50 * 5 * 3);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        for threads in 1..=4 {
            let pool = Pool::new(threads);
            for bad in [0, 3, 19] {
                let run = || pool.run(20, &|i| assert!(i != bad, "task {i}"));
                let payload = catch_unwind(AssertUnwindSafe(run)).unwrap_err();
                assert_eq!(payload.downcast_ref::<String>().unwrap(), &format!("task {bad}"));
                let count = AtomicUsize::new(0);
                pool.run(20, &|_| {
                    count.fetch_add(1, Ordering::Relaxed);
                });
                assert_eq!(count.into_inner(), 20);
            }
        }
    }
}
