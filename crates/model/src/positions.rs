//! Sines and cosines of the rotary embeddings at some positions.

use crate::{Rope, Spec};
use kvant_kernels::ops::{RopeLayout, Rotation};

/// The angles of each of a network's rotary embeddings ([`Spec::ropes`]) at the positions of some tokens.
pub struct Positions {
    tokens: usize,
    ropes: Vec<RopeTable>,
}

struct RopeTable {
    rotated: usize,
    layout: RopeLayout,
    cosines: Vec<f32>,
    sines: Vec<f32>,
}

/// A rotary embedding with its frequencies computed.
pub(crate) struct RopeFrequencies {
    rotated: usize,
    layout: RopeLayout,
    /// Radians a position, of each pair.
    frequencies: Vec<f32>,
    /// Multiplies sines and cosines.
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
    /// Positions `past..past + count`.
    pub fn new(spec: &Spec, past: usize, count: usize) -> Self {
        Self::at(&RopeFrequencies::of(spec), past..past + count)
    }

    /// The same for any positions, with frequencies at hand.
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

    /// How many tokens there are.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The opposite angles, for gradients. A factor of the rotation stays.
    pub(crate) fn inverse(&self) -> Self {
        let inverse = |table: &RopeTable| RopeTable {
            cosines: table.cosines.clone(),
            sines: table.sines.iter().map(|x| -x).collect(),
            ..*table
        };
        Self { tokens: self.tokens, ropes: self.ropes.iter().map(inverse).collect() }
    }

    /// The rotation of heads by rotary embedding number `rope`.
    pub(crate) fn rotation(&self, rope: usize, head_size: usize) -> Rotation<'_> {
        let RopeTable { rotated, layout, cosines, sines } = &self.ropes[rope];
        Rotation { head_size, rotated: *rotated, layout: *layout, cosines, sines }
    }
}
