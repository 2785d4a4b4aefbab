//! The state of one layer and one sequence: a KV cache, or a recurrent state of fixed size.

use crate::{Body, Error};
use kvant_kernels::{KeyValues, KvFormat, PagePool, RecurrentState};

/// The state of one layer and one sequence.
#[derive(Clone, Debug)]
pub(crate) enum LayerState {
    /// Keys and values of all positions, or of those that a window reads.
    KeyValues(KeyValues),
    /// A summary of all positions.
    Recurrent(RecurrentState),
}

impl LayerState {
    /// Creates the empty state of a sublayer's body; `None` if the body has no state of its own.
    pub fn of(body: &Body, format: KvFormat, pages: &PagePool) -> Option<Self> {
        match body {
            // It reads the states of an earlier block.
            Body::Attention(a) if a.states_of().is_some() => None,
            Body::Attention(a) => {
                let empty = KeyValues::in_pool(format, a.kv_heads, a.head_size, pages);
                // A window to both sides drops nothing.
                Some(Self::KeyValues(empty.with_window(a.span.window().filter(|_| a.causal))))
            }
            Body::DeltaNet(d) => Some(Self::Recurrent(RecurrentState::in_pool(d.state_length(), pages))),
            Body::ShortConvolution(c) => {
                Some(Self::Recurrent(RecurrentState::in_pool(c.convolution.state_length(), pages)))
            }
            Body::FeedForward(_) | Body::Experts(_) | Body::LayerGate(_) => None,
        }
    }

    /// The KV cache of an attention.
    pub fn key_values(&mut self) -> &mut KeyValues {
        match self {
            Self::KeyValues(all) => all,
            Self::Recurrent(_) => unreachable!("the state of an attention"),
        }
    }

    /// The state of a recurrent layer.
    pub fn recurrent(&mut self) -> &mut RecurrentState {
        match self {
            Self::Recurrent(state) => state,
            Self::KeyValues(_) => unreachable!("the state of a recurrent layer"),
        }
    }

    /// True if the state loses earlier positions, so that it cannot return to each shorter length.
    pub fn forgets(&self) -> bool {
        match self {
            Self::KeyValues(all) => all.window().is_some(),
            Self::Recurrent(_) => true,
        }
    }

    /// Returns the largest length, at most `length`, to which the state can be truncated.
    pub fn end_within(&self, length: usize) -> usize {
        match self {
            Self::KeyValues(all) => all.end_within(length),
            Self::Recurrent(state) if length < state.len() => 0,
            Self::Recurrent(state) => state.len(),
        }
    }

    /// The largest number of positions that may be appended before the queries of these positions run.
    pub fn room(&self) -> usize {
        match self {
            Self::KeyValues(all) => all.room(),
            Self::Recurrent(_) => usize::MAX,
        }
    }

    /// Removes all positions from `length` on, or more of them ([`LayerState::end_within`]).
    pub fn truncate(&mut self, length: usize) {
        match self {
            Self::KeyValues(all) => all.truncate(length),
            Self::Recurrent(state) if length < state.len() => state.clear(),
            Self::Recurrent(_) => {}
        }
    }

    /// Returns the bytes that [`LayerState::prepare`] would take.
    pub fn missing(&self, count: usize, at_once: usize) -> usize {
        match self {
            Self::KeyValues(all) => all.missing(count, at_once),
            Self::Recurrent(state) => state.missing(count),
        }
    }

    /// Takes the memory for the next `count` positions, which run in steps of at most `at_once` positions.
    pub fn prepare(&mut self, count: usize, at_once: usize) -> Result<(), Error> {
        let prepared = match self {
            Self::KeyValues(all) => all.prepare(count, at_once),
            Self::Recurrent(state) => state.prepare(count),
        };
        prepared.map_err(|source| Error::States { source })
    }

    pub fn unshare(&mut self) -> Result<(), Error> {
        let unshared = match self {
            Self::KeyValues(all) => all.unshare(),
            Self::Recurrent(state) => state.unshare(),
        };
        unshared.map_err(|source| Error::States { source })
    }

    /// Returns the numbers of prepared pages. See [`KeyValues::reserve`].
    pub fn reserve(&self) -> [usize; 2] {
        match self {
            Self::KeyValues(all) => all.reserve(),
            Self::Recurrent(_) => [0; 2],
        }
    }

    /// Gives prepared memory back to the pool, except the pages of `reserve`.
    pub fn give_back(&mut self, reserve: [usize; 2]) {
        match self {
            Self::KeyValues(all) => all.give_back(reserve),
            Self::Recurrent(state) => state.give_back(),
        }
    }

    /// The number of bytes that the last of `positions` positions reads.
    pub fn read_bytes(&self, positions: usize) -> usize {
        match self {
            Self::KeyValues(all) => all.read_bytes(positions),
            Self::Recurrent(state) => state.bytes(positions),
        }
    }

    /// The number of bytes that `positions` positions take, which run in steps of at most `at_once` positions.
    pub fn bytes(&self, positions: usize, at_once: usize) -> usize {
        match self {
            Self::KeyValues(all) => all.bytes(positions, at_once),
            Self::Recurrent(state) => state.bytes(positions),
        }
    }
}
