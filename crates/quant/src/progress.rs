//! How a long job says how far it is.

/// Hears how far the work is, and may stop it.
pub trait Progress: Sync {
    /// `done` of `total` are through (blocks of the network, contexts of text or bytes of input, as the step goes);
    /// `what` is in work.
    fn at(&self, done: u64, total: u64, what: &str);

    /// Whether the user wants to stop.
    fn stop(&self) -> bool;
}

impl Progress for () {
    fn at(&self, _done: u64, _total: u64, _what: &str) {}

    fn stop(&self) -> bool {
        false
    }
}
