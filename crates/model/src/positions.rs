//! Sines and cosines of the rotary embeddings at given positions.

use crate::{Rope, Spec};
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
    /// Radians per position, for each pair.
    frequencies: Vec<f32>,
    /// Factor of the sines and cosines.
    factor: f32,
}

impl RopeFrequencies {
    pub fn of(spec: &Spec) -> Vec<Self> {
        let of = |rope: &Rope| {
            let (frequencies, factor) = rope.frequencies();
            Self { rotated: rope.rotated, layout: rope.layout, frequencies, factor }
        };
        spec.ropes().into_iter().map(of).collect()
    }
}

impl Positions {
    /// Computes the angles at positions `past..past + count`.
    pub fn new(spec: &Spec, past: usize, count: usize) -> Self {
        Self::at(&RopeFrequencies::of(spec), past..past + count)
    }

    /// Computes the angles at any positions, from precomputed frequencies.
    pub(crate) fn at(ropes: &[RopeFrequencies], positions: impl Iterator<Item = usize> + Clone) -> Self {
        let table = |rope: &RopeFrequencies| {
            let positions = positions.clone();
            let angles =
                positions.flat_map(|position| rope.frequencies.iter().map(move |f| position as f32 * f));
            let (cosines, sines) = angles.map(|a| (a.cos() * rope.factor, a.sin() * rope.factor)).unzip();
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
