//! The state of one recurrent layer and one sequence.

use crate::page_pool::{Line, Page};
use crate::{Error, PagePool};
use std::sync::Arc;

/// A state of fixed size: floats that summarize all positions. A clone shares the memory; the first of the two that
/// changes copies it.
#[derive(Clone, Debug)]
pub struct RecurrentState {
    positions: usize,
    /// Floats of the state.
    length: usize,
    /// `None` stands for zeros.
    page: Option<Arc<Page>>,
    pool: PagePool,
}

impl RecurrentState {
    /// Creates a state of `length` zeros, which takes its memory from `pool`.
    pub fn in_pool(length: usize, pool: &PagePool) -> Self {
        Self { positions: 0, length, page: None, pool: pool.clone() }
    }

    fn lines(&self) -> usize {
        (self.length * size_of::<f32>()).div_ceil(Line::BYTES)
    }

    /// Number of positions in the state.
    pub fn len(&self) -> usize {
        self.positions
    }

    /// Returns true if the state has no position.
    pub fn is_empty(&self) -> bool {
        self.positions == 0
    }

    /// Returns the bytes of the state after `positions` positions.
    pub fn bytes(&self, positions: usize) -> usize {
        if positions > 0 { self.lines() * Line::BYTES } else { 0 }
    }

    /// Returns the bytes that [`RecurrentState::prepare`] would allocate.
    pub fn missing(&self, count: usize) -> usize {
        let shared = self.page.as_ref().is_none_or(|page| Arc::strong_count(page) > 1);
        if shared { self.bytes(count) } else { 0 }
    }

    /// Takes the memory for a change by `count` positions.
    ///
    /// # Errors
    /// [`Error::PoolFull`]; in this case the state is unchanged.
    pub fn prepare(&mut self, count: usize) -> Result<(), Error> {
        if self.missing(count) > 0 {
            let mut page = self.pool.take(self.lines())?;
            match &self.page {
                Some(old) => page.bytes_mut().copy_from_slice(old.bytes()),
                None => page.bytes_mut().fill(0),
            }
            self.page = Some(Arc::new(page));
        }
        Ok(())
    }

    /// Stops sharing memory.
    ///
    /// # Errors
    /// [`Error::PoolFull`], as for [`RecurrentState::prepare`].
    pub fn unshare(&mut self) -> Result<(), Error> {
        self.prepare(self.positions)
    }

    /// Returns the memory of a state without positions.
    pub fn give_back(&mut self) {
        if self.positions == 0 {
            self.page = None;
        }
    }

    /// Empties the state.
    pub fn clear(&mut self) {
        self.positions = 0;
        self.page = None;
    }

    /// Adds `count` positions, above 0, and returns the floats for their change. It takes memory if
    /// [`RecurrentState::prepare`] was not called, and panics if the pool is full.
    pub fn advance(&mut self, count: usize) -> &mut [f32] {
        self.prepare(count).expect("memory that was prepared");
        self.positions += count;
        let page = self.page.as_mut().and_then(Arc::get_mut).expect("a state that is not shared");
        &mut bytemuck::cast_slice_mut(page.bytes_mut())[..self.length]
    }
}
