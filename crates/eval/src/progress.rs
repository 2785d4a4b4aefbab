//! Progress reports of long jobs.

/// Receives the progress of a job, and can stop the job.
pub trait Progress: Sync {
    /// Reports that a step of the job begins, for example `quantize`.
    fn begin(&self, _step: &str) {}

    /// Reports that `done` of `total` units are finished. The unit depends on the step: blocks of the network, contexts
    /// of text or bytes of input. `what` names the unit that is now in progress.
    fn at(&self, done: u64, total: u64, what: &str);

    /// Reports a message that may interest the user while the job runs.
    fn inform(&self, _text: &str) {}

    /// Reports a message that the user should read.
    fn note(&self, _text: &str) {}

    /// Returns true if the user wants to stop the job.
    fn stop(&self) -> bool;
}

impl Progress for () {
    fn at(&self, _done: u64, _total: u64, _what: &str) {}

    fn stop(&self) -> bool {
        false
    }
}
