//! What `--threads` and `--isa` come to.

use crate::arguments::Common;
use crate::failure::Failure;
use crate::terminal;
use kvant::kernels::{Backend, Isa};

/// Threads to use: as asked, else the physical cores; never more than this process may use, for threads that wait for each
/// other at every product are no use where they have to take turns (eight on two cores: a third of SmolLM2's tokens a second).
pub fn threads(common: &Common) -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    common.threads.map_or_else(num_cpus::get_physical, usize::from).clamp(1, allowed)
}

/// The backend that the flags ask for.
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

/// The same, and as many threads that solvers and hashes share. The calling thread is none of them: it may wait for a
/// thread that has work for them.
pub fn start(common: &Common) -> Result<Backend, Failure> {
    let count = threads(common);
    rayon::ThreadPoolBuilder::new()
        .num_threads(count)
        .build_global()
        .map_err(|error| Failure::Fault(format!("cannot start {count} threads: {error}")))?;
    backend(common)
}
