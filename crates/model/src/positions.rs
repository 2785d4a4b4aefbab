//! Sines and cosines of the rotary embeddings at given positions.

use crate::{Rope, RopeScaling, Spec};
use kvant_kernels::ops::{RopeLayout, Rotation};

/// The rotation angles of given tokens, for each of a network's rotary embeddings ([`Spec::ropes`]).
pub struct Positions {
    tokens: usize,
    ropes: Vec<RopeTable>,
}

struct RopeTable {
    rotated: usize,
    layout: RopeLayout,
    /// Tokens × pairs, as `sines`.
    cosines: Vec<f32>,
    sines: Vec<f32>,
}

/// A rotary embedding with precomputed frequencies.
pub(crate) struct RopeFrequencies {
    rotated: usize,
    layout: RopeLayout,
    /// Sequences of at most this capacity use `short`, others `long`.
    largest_short: usize,
    short: Frequencies,
    long: Frequencies,
}

/// The frequencies of sequences of some capacity.
struct Frequencies {
    /// Radians per position, for each pair.
    frequencies: Vec<f32>,
    /// Factor of the sines and cosines.
    factor: f32,
}

/// A position of a sequence, and the capacity of the sequence.
#[derive(Clone, Copy)]
pub(crate) struct SequencePosition {
    pub position: usize,
    pub capacity: usize,
}

impl RopeFrequencies {
    pub fn of(spec: &Spec) -> Vec<Self> {
        let of = |rope: &Rope| {
            let largest_short = match &rope.scaling {
                RopeScaling::Long { original_context, .. } => *original_context,
                _ => usize::MAX,
            };
            let frequencies = |capacity| {
                let (frequencies, factor) = rope.frequencies(capacity);
                Frequencies { frequencies, factor }
            };
            let (rotated, layout) = (rope.rotated, rope.layout);
            Self { rotated, layout, largest_short, short: frequencies(0), long: frequencies(usize::MAX) }
        };
        spec.ropes().into_iter().map(of).collect()
    }
}

impl Positions {
    /// Computes the angles at positions `past..past + count` of a sequence that ends there.
    pub fn new(spec: &Spec, past: usize, count: usize) -> Self {
        let capacity = past + count;
        let positions = (past..capacity).map(|position| SequencePosition { position, capacity });
        Self::at(&RopeFrequencies::of(spec), positions)
    }

    /// Computes the angles at any positions, from precomputed frequencies.
    pub(crate) fn at(
        ropes: &[RopeFrequencies],
        positions: impl Iterator<Item = SequencePosition> + Clone,
    ) -> Self {
        let table = |rope: &RopeFrequencies| {
            let angles = positions.clone().flat_map(|at| {
                let of = if at.capacity > rope.largest_short { &rope.long } else { &rope.short };
                of.frequencies.iter().map(move |f| (at.position as f32 * f, of.factor))
            });
            let (cosines, sines) = angles.map(|(a, factor)| (a.cos() * factor, a.sin() * factor)).unzip();
            RopeTable { rotated: rope.rotated, layout: rope.layout, cosines, sines }
        };
        Self { tokens: positions.clone().count(), ropes: ropes.iter().map(table).collect() }
    }

    /// The number of tokens.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Returns the opposite angles, for gradients. The factor of the sines and cosines does not change.
    pub(crate) fn inverse(&self) -> Self {
        let inverse = |table: &RopeTable| RopeTable {
            cosines: table.cosines.clone(),
            sines: table.sines.iter().map(|x| -x).collect(),
            ..*table
        };
        Self { tokens: self.tokens, ropes: self.ropes.iter().map(inverse).collect() }
    }

    /// The rotation of heads by the rotary embedding with index `rope`.
    pub(crate) fn rotation(&self, rope: usize, head_size: usize) -> Rotation<'_> {
        let RopeTable { rotated, layout, cosines, sines } = &self.ropes[rope];
        Rotation { head_size, rotated: *rotated, layout: *layout, cosines, sines }
    }
}
