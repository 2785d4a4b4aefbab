//! Settings of an engine.

use kvant::model::Transformer;

/// Settings of an engine.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Largest number of requests that run at the same time.
    pub parallel: usize,
    /// Largest number of requests that wait.
    pub queue: usize,
    /// Largest number of tokens of a request, prompt and answer together.
    pub context: usize,
    /// Memory for the states of all requests and of the prefix index, in bytes.
    pub state_bytes: usize,
}

impl Settings {
    /// Settings for `parallel` requests of up to `context` tokens, with memory for all of them.
    pub fn new(network: &Transformer, parallel: usize, context: usize) -> Self {
        let one = network.sequence(context);
        // A request that shares pages with another one copies its last page.
        let bytes = one.bytes(context).saturating_add(2 * one.bytes(1)).saturating_mul(parallel);
        Self { parallel, queue: 256, context, state_bytes: bytes }
    }
}
