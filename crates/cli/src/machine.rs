//! Creates the backend and the thread pool from the flags `--threads` and `--isa`.

use crate::arguments::Common;
use crate::failure::Failure;
use crate::terminal;
use kvant::kernels::{Backend, Isa};

/// Returns `--threads`, or the number of physical cores; at most the number of processors that this process may use,
/// because threads wait for each other at every matrix product.
pub fn threads(common: &Common) -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    common.threads.map_or_else(num_cpus::get_physical, usize::from).clamp(1, allowed)
}

/// Returns the backend for the flags. Prints a note if the system starts fewer threads than requested.
pub fn backend(common: &Common) -> Result<Backend, Failure> {
    let (isa, asked) = (Isa::by_name(&common.isa)?, threads(common));
    let backend = Backend::new(isa, asked);
    if backend.threads() < asked && !common.quiet {
        terminal::say(format_args!(
            "note: the system starts no more than {} of {asked} threads; it will be slower",
            backend.threads()
        ));
    }
    Ok(backend)
}

/// Returns the backend for the flags, and starts the thread pool that solvers and hashes share. The calling thread does not
/// belong to the pool, because it may wait for a thread that has work for the pool.
pub fn start(common: &Common) -> Result<Backend, Failure> {
    let count = threads(common);
    rayon::ThreadPoolBuilder::new()
        .num_threads(count)
        .build_global()
        .map_err(|error| Failure::Fault(format!("cannot start {count} threads: {error}")))?;
    backend(common)
}
