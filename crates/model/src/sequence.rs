//! The states of one sequence in all blocks: keys and values of its earlier positions, and recurrent states.
//!
//! A sequence grows by whole pages of 64 positions. A fork shares all pages. The first of the two sequences that
//! appends to a shared page copies it, so a common prefix can end at any token. Memory comes from a [`StatePool`], or
//! from the system. Invariant: a sequence's results do not depend on the sequences that share its pages.
//!
//! A recurrent state cannot lose its last positions, and an attention with a window drops the pages that no later position
//! reads. A sequence of such a network therefore keeps checkpoints: earlier states, which share pages with the sequence.

use crate::layer_state::LayerState;
use crate::{Attention, BlockSpec, Error, Spec, Transformer};
use kvant_kernels::{KvFormat, PagePool};

/// The memory for the states of a network's sequences, with a fixed limit.
///
/// It holds an empty sequence with the largest capacity. New sequences are forks of it.
#[derive(Clone, Debug)]
pub struct StatePool(Sequence);

impl StatePool {
    /// Creates a pool of at most `bytes`.
    pub fn new(spec: &Spec, format: KvFormat, bytes: usize) -> Self {
        Self(Sequence::in_pool(spec, usize::MAX, format, &PagePool::new(bytes)))
    }

    /// Creates an empty sequence for at most `capacity` positions. It takes memory as it grows.
    pub fn sequence(&self, capacity: usize) -> Sequence {
        Sequence { capacity: capacity.min(self.0.capacity), ..self.0.clone() }
    }

    /// The largest number of bytes that states may take.
    pub fn limit(&self) -> usize {
        self.0.pages.limit()
    }

    /// The number of bytes that states take now. A page that several sequences share counts once.
    pub fn held(&self) -> usize {
        self.0.pages.held()
    }
}

/// The states of one sequence, for up to `capacity` positions. A clone is a fork.
#[derive(Clone, Debug)]
pub struct Sequence {
    /// For each block, the states of its sublayers that have one.
    pub(crate) blocks: Vec<Vec<LayerState>>,
    /// For each block that reads the states of an earlier block: the index of the earlier block.
    shared: Vec<usize>,
    pub(crate) length: usize,
    /// Earlier states, shortest first. Empty if no state of the network forgets positions.
    checkpoints: Vec<Checkpoint>,
    capacity: usize,
    pages: PagePool,
}

/// All states after the first `length` positions of a sequence.
#[derive(Clone, Debug)]
struct Checkpoint {
    length: usize,
    blocks: Vec<Vec<LayerState>>,
}

/// An earlier state of a sequence. It shares the sequence's pages until the sequence appends to them.
#[derive(Clone, Debug)]
pub struct Snapshot(Sequence);

impl Sequence {
    /// Creates an empty sequence in `f32` for at most `capacity` positions, without a memory limit. Learned positions
    /// of the network also limit the capacity.
    pub fn new(spec: &Spec, capacity: usize) -> Self {
        Self::with_format(spec, capacity, KvFormat::F32)
    }

    /// Like [`Sequence::new`], with keys and values in `format`.
    pub fn with_format(spec: &Spec, capacity: usize, format: KvFormat) -> Self {
        Self::in_pool(spec, capacity, format, &PagePool::unlimited())
    }

    fn in_pool(spec: &Spec, capacity: usize, format: KvFormat, pages: &PagePool) -> Self {
        let block = |block: &BlockSpec| {
            block.sublayers.iter().filter_map(|s| LayerState::of(&s.body, format, pages)).collect()
        };
        let blocks = spec.blocks.iter().map(block).collect();
        let shared = spec.attentions().filter_map(Attention::states_of).collect();
        // Positions beyond the trained ones have no row in the position embedding.
        let limit = spec.embedding.positions.as_ref().map_or(usize::MAX, |positions| positions.rows);
        let capacity = capacity.min(limit);
        let (checkpoints, pages) = (Vec::new(), pages.clone());
        Self { blocks, shared, length: 0, checkpoints, capacity, pages }
    }

    /// Takes the memory for all positions at once: exactly [`Sequence::bytes`] of the capacity. Steps of more than
    /// [`Transformer::PIECE`] tokens, forks and checkpoints can take more.
    ///
    /// # Errors
    /// [`Error::States`] if the pool is too small.
    pub fn reserved(mut self) -> Result<Self, Error> {
        self.prepare(self.capacity - self.length, Transformer::PIECE)?;
        Ok(self)
    }

    /// Copies the shared pages, so that no other sequence shares a page with this one. Reads are then as fast as in a
    /// sequence that never was forked.
    ///
    /// # Errors
    /// [`Error::States`] if the pool is too small.
    pub fn unshared(mut self) -> Result<Self, Error> {
        self.blocks.iter_mut().flatten().try_for_each(LayerState::unshare)?;
        Ok(self)
    }

    fn layers(&self) -> impl Iterator<Item = &LayerState> {
        self.blocks.iter().flatten()
    }

    /// The number of positions in the sequence.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Returns true if the sequence has no positions.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The largest number of positions.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Returns a sequence with the same positions. Both share pages, but grow independently.
    #[must_use]
    pub fn fork(&self) -> Self {
        self.clone()
    }

    /// Saves the current state, for [`Sequence::restore`].
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.clone())
    }

    /// Restores a snapshot of this sequence, or of another sequence of the same network.
    pub fn restore(&mut self, snapshot: &Snapshot) {
        self.clone_from(&snapshot.0);
    }

    /// Empties the sequence and returns all its memory.
    pub fn release(&mut self) {
        self.truncate(0);
        self.give_back();
    }

    /// The largest number of checkpoints of a sequence.
    pub const CHECKPOINTS: usize = 3;

    /// Returns true if the network has recurrent states or windows. Such a sequence loses its last positions by a return
    /// to a checkpoint. With windows only, the end can also move back without a checkpoint, to 64 positions before the
    /// largest length.
    pub fn needs_checkpoints(&self) -> bool {
        self.layers().any(LayerState::forgets)
    }

    /// Remembers the states at the current length, so that [`Sequence::truncate`] can return to them. A network without
    /// recurrent states and windows needs no checkpoints, and the call has no effect. The first checkpoint and the latest
    /// ones are kept. A checkpoint shares pages with the sequence. It takes the memory of the recurrent states, of a copy
    /// of the last page of each attention, and of the pages that the sequence drops later.
    pub fn checkpoint(&mut self) {
        let known = self.checkpoints.last().is_some_and(|last| last.length == self.length);
        if known || self.length == 0 || !self.needs_checkpoints() {
            return;
        }
        if self.checkpoints.len() == Self::CHECKPOINTS {
            self.checkpoints.remove(1);
        }
        self.checkpoints.push(Checkpoint { length: self.length, blocks: self.blocks.clone() });
    }

    /// Removes all positions from `length` on, or more; [`Sequence::len`] returns the new length. The sequence keeps up to
    /// 63 positions less than `length` if [`kvant_kernels::KeyValues::end_within`] requires that. If a recurrent state or
    /// an attention with a window cannot end there, the sequence returns to its last checkpoint of at most `length`
    /// positions, or becomes empty.
    pub fn truncate(&mut self, length: usize) {
        if length >= self.length {
            return;
        }
        self.checkpoints.retain(|checkpoint| checkpoint.length <= length);
        let end = self.end_within(length);
        if let Some(Checkpoint { length, blocks }) = self.checkpoints.last()
            && *length > end
        {
            self.length = *length;
            self.blocks.clone_from(blocks);
            return;
        }
        self.length = end;
        self.blocks.iter_mut().flatten().for_each(|layer| layer.truncate(end));
    }

    /// Returns the length that [`Sequence::truncate`] would leave.
    pub fn truncated_length(&self, length: usize) -> usize {
        if length >= self.length {
            return self.length;
        }
        let checkpoints = self.checkpoints.iter().map(|checkpoint| checkpoint.length);
        let last = checkpoints.filter(|checkpoint| *checkpoint <= length).max();
        self.end_within(length).max(last.unwrap_or(0))
    }

    /// Returns the largest length, at most `length`, to which all layers can be truncated.
    fn end_within(&self, mut length: usize) -> usize {
        loop {
            let end = self.layers().map(|layer| layer.end_within(length)).min().unwrap_or(length);
            if end == length {
                return length;
            }
            length = end;
        }
    }

    /// The largest number of tokens that may run in one step.
    ///
    /// With [`KvFormat::Q4_0`], a query reads its own page in more bits than later queries do. Attentions that read the
    /// states of an earlier block run after all positions of the step are appended, so a step ends with the page.
    pub(crate) fn room(&self) -> usize {
        let sources = self.shared.iter().flat_map(|block| &self.blocks[*block]);
        sources.map(LayerState::room).min().unwrap_or(usize::MAX)
    }

    /// The number of bytes that the next `count` positions take from the pool, in steps of at most `at_once`
    /// positions.
    pub(crate) fn missing(&self, count: usize, at_once: usize) -> usize {
        self.layers().map(|layer| layer.missing(count, at_once)).sum()
    }

    /// The id of the sequence's pool.
    pub(crate) fn pool(&self) -> usize {
        self.pages.id()
    }

    /// Returns an error if the pool has no room for `bytes` more.
    pub(crate) fn check_pool(&self, bytes: usize) -> Result<(), Error> {
        self.pages.check(bytes).map_err(|source| Error::States { source })
    }

    /// Takes the memory for the next `count` positions, in steps of at most `at_once` positions. On failure, it takes nothing.
    pub(crate) fn prepare(&mut self, count: usize, at_once: usize) -> Result<(), Error> {
        self.check_pool(self.missing(count, at_once))?;
        self.take(count, at_once)
    }

    /// Like [`Sequence::prepare`], without [`Sequence::check_pool`]. It fails if another thread took the memory after
    /// that check.
    pub(crate) fn take(&mut self, count: usize, at_once: usize) -> Result<(), Error> {
        let taken = self.blocks.iter_mut().flatten().try_for_each(|layer| layer.prepare(count, at_once));
        taken.inspect_err(|_| self.give_back())
    }

    /// Returns prepared memory that has no positions.
    pub(crate) fn give_back(&mut self) {
        self.blocks.iter_mut().flatten().for_each(|layer| layer.give_back([0; 2]));
    }

    /// Returns the numbers of prepared pages of each layer.
    pub(crate) fn reserve(&self) -> Vec<[usize; 2]> {
        self.layers().map(LayerState::reserve).collect()
    }

    /// Returns prepared memory beyond `reserve`, an earlier result of [`Sequence::reserve`].
    pub(crate) fn shrink_reserve(&mut self, reserve: &[[usize; 2]]) {
        self.blocks.iter_mut().flatten().zip(reserve).for_each(|(layer, reserve)| layer.give_back(*reserve));
    }

    /// The number of bytes that `count` more positions take from the pool, if they are read in pieces of
    /// [`Transformer::PIECE`].
    pub fn needed_bytes(&self, count: usize) -> usize {
        self.missing(count, Transformer::PIECE)
    }

    /// The number of bytes of the states that the last of `positions` positions reads.
    pub fn read_bytes(&self, positions: usize) -> usize {
        let shared = self.shared.iter().flat_map(|block| &self.blocks[*block]);
        self.layers().chain(shared).map(|layer| layer.read_bytes(positions)).sum()
    }

    /// The number of bytes that `positions` positions take, if they are read in pieces of [`Transformer::PIECE`].
    pub fn bytes(&self, positions: usize) -> usize {
        self.layers().map(|layer| layer.bytes(positions, Transformer::PIECE)).sum()
    }
}
