//! How a long job says how far it is.

/// Hears how far a job is, and may stop it.
pub trait Progress: Sync {
    /// A step of the job begins, for example `quantize`.
    fn begin(&self, _step: &str) {}

    /// `done` of `total` are through (blocks of the network, contexts of text or bytes of input, as the step goes);
    /// `what` is in work.
    fn at(&self, done: u64, total: u64, what: &str);

    /// Something that a user may want to know while the job runs.
    fn inform(&self, _text: &str) {}

    /// Something that a user should know.
    fn note(&self, _text: &str) {}

    /// Whether the user wants to stop.
    fn stop(&self) -> bool;
}

impl Progress for () {
    fn at(&self, _done: u64, _total: u64, _what: &str) {}

    fn stop(&self) -> bool {
        false
    }
}
