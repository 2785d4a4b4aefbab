//! A small thread pool for fork-join work that starts thousands of times per second.
//!
//! The threads of a run ([`Pool::run`]) take task indices from one shared counter. The calling thread also executes
//! tasks. A worker without work spins for at most [`SPIN`] and then parks, so that an idle pool uses no CPU time. A
//! worker enters a run only while the run is open, so that a late worker never delays the caller.
//!
//! Invariant: `state` counts the workers inside the run. The caller writes a job only while the run is closed and no
//! worker is inside the run. The caller returns only after it has closed the run and all workers have left the run.
//! Between these two points, the job does not change.
//!
//! If `run` is called during another run, from a task or from another thread, this call executes all its tasks on its
//! calling thread.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// Time that a thread spins before it parks.
const SPIN: Duration = Duration::from_micros(50);

/// Mask of the low bits of `state`: the number of workers inside the run.
const INSIDE: u64 = (1 << 31) - 1;
/// Bit of `state`: set while workers may enter the run.
const OPEN: u64 = 1 << 31;
/// The increment of the generation, which is the high bits of `state`. Each run adds this value one time.
const GENERATION: u64 = 1 << 32;

/// Function that executes the task with the given index.
type Work = dyn Fn(usize) + Sync;

/// The job of a run. Only the caller and workers inside the run dereference the pointer.
struct Job {
    work: *const Work,
    /// Number of tasks.
    tasks: usize,
    /// The thread that called `run`. The last worker that leaves the run wakes this thread.
    caller: Thread,
}

/// The data that the caller and the workers share.
struct Common {
    /// Generation, [`OPEN`] and [`INSIDE`].
    state: AtomicU64,
    /// Index of the next task.
    next: AtomicUsize,
    /// The job of the current run or of the last run.
    job: UnsafeCell<Option<Job>>,
    /// Payload of the first panic of a task in this run.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// True while a call of `run` uses the workers.
    busy: AtomicBool,
    /// True after the pool was dropped: workers must end.
    stop: AtomicBool,
    /// For each worker: true while it is parked or will park.
    parked: Vec<AtomicBool>,
}

// SAFETY: `job` is the only field without its own synchronisation. It is written only while `busy` is held, the run is
// closed and no worker is inside the run. It is read only by the caller, and by threads that entered the open run
// through `state` (acquire/release).
unsafe impl Sync for Common {}
// SAFETY: the raw pointer in `job` points to `Sync` work. It is dereferenced only while the caller of `run` keeps the
// work alive.
unsafe impl Send for Common {}

/// A pool of threads that executes numbered tasks.
pub struct Pool {
    common: Arc<Common>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Creates a pool of `threads` threads, including the calling thread; 0 means 1. If the system cannot start all
    /// these threads, the pool has fewer threads ([`Pool::threads`]). Results do not depend on the number of threads.
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
            worker.spawn(move || common.worker_loop(index)).ok()
        });
        let workers = workers.collect();
        Self { common, workers }
    }

    /// Number of threads, including the calling thread.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `work(index)` exactly one time for each index in `0..tasks`, in any order. Returns when all calls have
    /// ended.
    ///
    /// After a panic in a task, no further task starts, and the panic continues in the caller.
    pub fn run(&self, tasks: usize, work: &(dyn Fn(usize) + Sync)) {
        let common = &*self.common;
        if tasks <= 1 || self.workers.is_empty() || common.busy.swap(true, Ordering::Acquire) {
            (0..tasks).for_each(work);
            return;
        }
        // SAFETY: only the lifetime of the pointer changes. `run_tasks` catches the panics of tasks, so this function
        // returns or unwinds only after the `wait` below. After the `wait`, no worker uses the pointer.
        let work: *const Work =
            unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync), *const Work>(work) };
        // SAFETY: this thread holds `busy`, the run is closed and no worker is inside the run. So no other thread
        // accesses the job.
        unsafe { *common.job.get() = Some(Job { work, tasks, caller: thread::current() }) };
        common.next.store(0, Ordering::Relaxed);
        // This operation and the operations on the `parked` flags are sequentially consistent. So at least one of two
        // things happens: the worker sees this run, or this thread sees the flag of the worker and unparks the worker.
        common.state.fetch_add(GENERATION | OPEN, Ordering::SeqCst);
        for (worker, parked) in self.workers.iter().zip(&common.parked).take(tasks - 1) {
            if parked.swap(false, Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        common.run_tasks();
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
            // Workers catch all panics of tasks, so `join` returns no panic.
            let _ = worker.join();
        }
    }
}

impl Common {
    /// Runs the main loop of worker `index`.
    fn worker_loop(&self, index: usize) {
        let mut seen_generation = 0;
        loop {
            // `stop` needs a separate check. A stop does not change the generation, and a worker that misses a run also
            // counts the generation of this run as seen.
            let has_news = || {
                self.stop.load(Ordering::SeqCst)
                    || self.state.load(Ordering::SeqCst) / GENERATION != seen_generation
            };
            wait(has_news, || {
                self.parked[index].store(true, Ordering::SeqCst);
                if !has_news() {
                    thread::park();
                }
                self.parked[index].store(false, Ordering::SeqCst);
            });
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            let mut state = self.state.load(Ordering::Acquire);
            loop {
                seen_generation = state / GENERATION;
                if state & OPEN == 0 {
                    break;
                }
                match self.state.compare_exchange_weak(state, state + 1, Ordering::AcqRel, Ordering::Acquire)
                {
                    Ok(_) => {
                        let caller = self.run_tasks();
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

    /// Executes tasks until no task remains. Returns the thread that called `run`, because the worker may have to wake
    /// this thread. Only the caller of `run` and workers inside the run may call this function.
    fn run_tasks(&self) -> Thread {
        // SAFETY: this thread is the caller or a worker inside the run. So the job was written before the run was
        // opened, and it does not change.
        let job = unsafe { (*self.job.get()).as_ref() }.expect("an open run has a job");
        // SAFETY: the caller of `run` keeps the work alive until all workers have left the run.
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

/// Waits until `ready` returns true. The thread first spins for [`SPIN`]. After this time it calls `sleep` repeatedly
/// until `ready` returns true.
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
    fn many_small_runs_with_and_without_sleep_in_between() {
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
    fn dropping_a_pool_ends_workers_that_are_still_starting() {
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
    fn nested_runs_and_runs_from_several_threads() {
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
    fn a_panic_reaches_the_caller_and_the_pool_still_works() {
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
