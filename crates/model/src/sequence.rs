//! The states of one conversation: keys and values of the positions already seen, every block's.
//!
//! A sequence grows by whole pages of 64 positions. A fork shares all pages; the first of both that goes on inside a shared
//! page copies it, so that prefixes are shared to the token. Memory comes from a [`StatePool`], or from the system.
//! Invariant: a sequence's results do not depend on who shares its pages.

use crate::{Attention, BlockSpec, Error, Spec};
use kvant_kernels::{KeyValues, KvFormat, PagePool};

/// All memory for the states of a network's sequences, with a limit that is fixed at the start.
///
/// It is an empty sequence of as many positions as the network has, from which others begin.
#[derive(Clone, Debug)]
pub struct StatePool(Sequence);

impl StatePool {
    /// A pool of at most `bytes`.
    ///
    /// # Errors
    /// [`Error::KvFormat`] where the format's blocks don't divide a head.
    pub fn new(spec: &Spec, format: KvFormat, bytes: usize) -> Result<Self, Error> {
        Ok(Self(Sequence::in_pool(spec, usize::MAX, format, &PagePool::new(bytes))?))
    }

    /// An empty sequence for at most `capacity` positions. It takes memory as positions come.
    pub fn sequence(&self, capacity: usize) -> Sequence {
        Sequence { capacity: capacity.min(self.0.capacity), ..self.0.clone() }
    }

    /// Bytes that states may take.
    pub fn limit(&self) -> usize {
        self.0.pages.limit()
    }

    /// Bytes that states take. A page that several sequences share counts once.
    pub fn held(&self) -> usize {
        self.0.pages.held()
    }
}

/// The states of one conversation, up to `capacity` positions. A clone is a fork.
#[derive(Clone, Debug)]
pub struct Sequence {
    /// Of each block, one for each attention.
    pub(crate) blocks: Vec<Vec<KeyValues>>,
    pub(crate) length: usize,
    capacity: usize,
    pages: PagePool,
}

/// A sequence as it was: it shares its pages until the sequence goes on.
#[derive(Clone, Debug)]
pub struct Snapshot(Sequence);

impl Sequence {
    /// An empty sequence for at most `capacity` positions in `f32`, and no more than a network with learned positions has,
    /// with the system's memory.
    pub fn new(spec: &Spec, capacity: usize) -> Self {
        Self::with_format(spec, capacity, KvFormat::F32).expect("numbers as they are fit any head")
    }

    /// The same in another format.
    ///
    /// # Errors
    /// [`Error::KvFormat`] where the format's blocks don't divide a head.
    pub fn with_format(spec: &Spec, capacity: usize, format: KvFormat) -> Result<Self, Error> {
        Self::in_pool(spec, capacity, format, &PagePool::unlimited())
    }

    fn in_pool(spec: &Spec, capacity: usize, format: KvFormat, pages: &PagePool) -> Result<Self, Error> {
        let layer = |attention: &Attention| {
            KeyValues::in_pool(format, attention.kv_heads, attention.head_size, pages)
                .map_err(|source| Error::KvFormat { source })
        };
        let block = |block: &BlockSpec| block.attentions().map(layer).collect::<Result<_, _>>();
        let blocks = spec.blocks.iter().map(block).collect::<Result<_, _>>()?;
        // A learned position that was not trained has no row.
        let most = spec.embedding.positions.as_ref().map_or(usize::MAX, |positions| positions.rows);
        Ok(Self { blocks, length: 0, capacity: capacity.min(most), pages: pages.clone() })
    }

    /// The same with the memory for all positions taken at once: exactly [`Sequence::bytes`] of them.
    ///
    /// # Errors
    /// [`Error::States`] where the pool is too small.
    pub fn reserved(mut self) -> Result<Self, Error> {
        self.prepare(self.capacity - self.length)?;
        Ok(self)
    }

    /// The same with pages that no other sequence shares: what reads it takes as long as if it had been run alone.
    ///
    /// # Errors
    /// [`Error::States`] where the pool is too small.
    pub fn unshared(mut self) -> Result<Self, Error> {
        let mut layers = self.blocks.iter_mut().flatten();
        layers.try_for_each(KeyValues::unshare).map_err(|source| Error::States { source })?;
        Ok(self)
    }

    fn layers(&self) -> impl Iterator<Item = &KeyValues> {
        self.blocks.iter().flatten()
    }

    /// Positions held.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether no position is held.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Positions that fit.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Another sequence that begins as this one is. Both share pages, and go on as if they did not.
    #[must_use]
    pub fn fork(&self) -> Self {
        self.clone()
    }

    /// What the sequence is now, to come back to.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.clone())
    }

    /// Goes back to a snapshot of this sequence, or of one of the same network.
    pub fn restore(&mut self, snapshot: &Snapshot) {
        self.clone_from(&snapshot.0);
    }

    /// Gives back all memory: the sequence is empty.
    pub fn release(&mut self) {
        self.truncate(0);
        self.give_back();
    }

    /// Forgets everything from position `length` on, and up to 63 positions before it where [`KeyValues::truncate`] has to:
    /// [`Sequence::len`] tells what is left.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
        // Once more where a layer went back further than the others.
        while self.layers().any(|layer| layer.len() != self.length) {
            for layer in self.blocks.iter_mut().flatten() {
                layer.truncate(self.length);
                self.length = self.length.min(layer.len());
            }
        }
    }

    /// Bytes that the next `count` positions take from the pool.
    pub(crate) fn missing(&self, count: usize) -> usize {
        self.layers().map(|layer| layer.missing(count)).sum()
    }

    /// Tells pools apart.
    pub(crate) fn pool(&self) -> usize {
        self.pages.id()
    }

    /// Refuses what the pool has no room for.
    pub(crate) fn check_pool(&self, bytes: usize) -> Result<(), Error> {
        self.pages.check(bytes).map_err(|source| Error::States { source })
    }

    /// Takes the memory for the next `count` positions. Where that fails, nothing is taken.
    pub(crate) fn prepare(&mut self, count: usize) -> Result<(), Error> {
        self.check_pool(self.missing(count))?;
        self.take(count)
    }

    /// The same after the pool was checked: it fails where another thread has taken the memory since.
    pub(crate) fn take(&mut self, count: usize) -> Result<(), Error> {
        let taken = self.blocks.iter_mut().flatten().try_for_each(|layer| layer.prepare(count));
        taken.map_err(|source| {
            self.give_back();
            Error::States { source }
        })
    }

    /// Gives back what was prepared and is not needed.
    pub(crate) fn give_back(&mut self) {
        self.blocks.iter_mut().flatten().for_each(KeyValues::give_back);
    }

    /// Bytes that the last of `positions` reads.
    pub fn read_bytes(&self, positions: usize) -> usize {
        self.layers().map(|layer| layer.read_bytes(positions)).sum()
    }

    /// Bytes that `positions` take.
    pub fn bytes(&self, positions: usize) -> usize {
        self.layers().map(|layer| layer.bytes(positions)).sum()
    }
}
