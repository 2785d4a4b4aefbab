//! Keys and values of the positions already seen, one sequence, every block's.
//!
//! It grows with the sequence, by whole pages; truncating it takes a sequence back. Left out: sharing between
//! sequences.

use crate::{Error, Spec};
use kvant_kernels::{KeyValues, KvFormat};

/// Keys and values of one sequence, up to `capacity` positions.
#[derive(Clone, Debug)]
pub struct KvCache {
    /// Of each block, one for each attention.
    pub(crate) blocks: Vec<Vec<KeyValues>>,
    pub(crate) length: usize,
    capacity: usize,
}

impl KvCache {
    /// An empty cache for at most `capacity` positions, stored as they are; memory is taken as positions come.
    pub fn new(spec: &Spec, capacity: usize) -> Self {
        Self::with(spec, capacity, KvFormat::F32).expect("numbers as they are fit any head")
    }

    /// The same in another format.
    ///
    /// # Errors
    /// [`Error::Kernel`] where the format's blocks don't divide a head.
    pub fn with(spec: &Spec, capacity: usize, format: KvFormat) -> Result<Self, Error> {
        let layer = |attention: &crate::Attention| {
            KeyValues::new(format, attention.kv_heads, attention.head_size)
                .map_err(|source| Error::KvFormat { source })
        };
        let block = |block: &crate::BlockSpec| block.attentions().map(layer).collect::<Result<_, _>>();
        let blocks = spec.blocks.iter().map(block).collect::<Result<_, _>>()?;
        Ok(Self { blocks, length: 0, capacity })
    }

    /// The same with the memory for all positions taken at once: exactly [`KvCache::bytes`] of them.
    #[must_use]
    pub fn reserved(mut self) -> Self {
        self.blocks.iter_mut().flatten().for_each(|layer| layer.reserve(self.capacity));
        self
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

    /// Forgets everything from position `length` on, and up to 63 positions before it where [`KeyValues::truncate`] has to:
    /// [`KvCache::len`] tells what is left.
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

    /// Bytes that the last of `positions` reads.
    pub fn read_bytes(&self, positions: usize) -> usize {
        self.layers().map(|layer| layer.read_bytes(positions)).sum()
    }

    /// Bytes that `positions` take.
    pub fn bytes(&self, positions: usize) -> usize {
        self.layers().map(|layer| layer.bytes(positions)).sum()
    }
}
