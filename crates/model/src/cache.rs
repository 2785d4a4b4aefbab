//! Keys and values of the positions already seen, one sequence, `f32`.
//!
//! It grows with the sequence; truncating it takes a sequence back. Left out: other storage formats and sharing
//! between sequences.

use crate::Spec;

/// One layer's keys and values, `positions × (kv_heads · head_size)` each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layer {
    pub keys: Vec<f32>,
    pub values: Vec<f32>,
}

/// Keys and values of one sequence, up to `capacity` positions.
#[derive(Clone, Debug)]
pub struct KvCache {
    pub(crate) layers: Vec<Layer>,
    pub(crate) length: usize,
    capacity: usize,
    widths: Vec<usize>,
}

impl KvCache {
    /// An empty cache for at most `capacity` positions; memory is taken as positions come.
    pub fn new(spec: &Spec, capacity: usize) -> Self {
        Self {
            layers: spec.blocks.iter().map(|_| Layer::default()).collect(),
            length: 0,
            capacity,
            widths: spec.blocks.iter().map(|b| b.attention.kv_heads * b.attention.head_size).collect(),
        }
    }

    /// The same with the memory for all positions taken at once: exactly [`KvCache::bytes`] of them.
    #[must_use]
    pub fn reserved(mut self) -> Self {
        for (layer, width) in self.layers.iter_mut().zip(&self.widths) {
            layer.keys.reserve_exact(self.capacity * width);
            layer.values.reserve_exact(self.capacity * width);
        }
        self
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

    /// Forgets everything from position `length` on.
    pub fn truncate(&mut self, length: usize) {
        if length < self.length {
            self.length = length;
            for (layer, width) in self.layers.iter_mut().zip(&self.widths) {
                layer.keys.truncate(length * width);
                layer.values.truncate(length * width);
            }
        }
    }

    /// Bytes that `positions` take.
    pub fn bytes(&self, positions: usize) -> usize {
        self.widths.iter().map(|w| 2 * w * positions * size_of::<f32>()).sum()
    }
}
