//! State that an engine and its thread share.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// State that the engine and its thread share.
#[derive(Default)]
pub struct Shared {
    /// The number of requests that were submitted and have not ended.
    pub open: AtomicUsize,
    /// True if the thread stopped after an error.
    pub stopped: AtomicBool,
    /// True if the thread must end at once.
    pub end: AtomicBool,
    /// The requests that run.
    pub slots: Mutex<Vec<SlotState>>,
}

/// A request that runs.
#[derive(Clone, Debug)]
pub struct SlotState {
    /// Order of arrival.
    pub arrival: u64,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens of the prompt and of the answer that were read.
    pub read: usize,
    /// Tokens of the answer.
    pub answered: usize,
    /// Largest number of tokens of the answer.
    pub limit: usize,
}

/// Counts an open request until it is dropped.
pub struct Open(Arc<Shared>);

impl Open {
    /// Counts one more request, unless there are `most` already.
    pub fn new(shared: &Arc<Shared>, most: usize) -> Option<Self> {
        let one_more = |open| (open < most).then_some(open + 1);
        shared.open.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).ok()?;
        Some(Self(shared.clone()))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}
