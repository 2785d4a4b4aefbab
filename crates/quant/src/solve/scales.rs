//! The stored scales of a group of codes, and the alternative scales that a search tries.
//!
//! Two searches use this file. [`super::descent`] minimizes the full quadratic form. [`super::diagonal_als`] minimizes
//! a sum in which every column is independent.

use kvant_core::{Codes, Grid, Scaling};

/// A search tries the closed-form best scale of a block, multiplied by each of these factors.
const MULTIPLES: [f32; 5] = [1.0, 0.975, 1.025, 0.94, 1.06];
/// Maximum number of alternatives to the current scales: at least as large as each list in [`Choices::near`].
const MAX_CHOICES: usize = 10;

/// The scales of one group: value = (`d` · `scale`) · level − `dmin` · `min`.
#[derive(Clone, Copy, PartialEq)]
pub struct Scales {
    /// The block's scale.
    pub d: f32,
    /// The block's scale of minima.
    pub dmin: f32,
    /// The group's integer scale.
    pub scale: i16,
    /// The group's integer minimum.
    pub min: i16,
}

impl Scales {
    /// Returns the scales of group `group` of a block.
    pub fn of(codes: &Codes, group: usize) -> Self {
        Self { d: codes.d, dmin: codes.dmin, scale: codes.scales[group], min: codes.mins[group] }
    }

    /// Returns the factor of the levels: value = factor · level − subtracted.
    pub fn factor(self) -> f32 {
        self.d * f32::from(self.scale)
    }

    /// Returns the minimum, which is subtracted from every value of the group.
    pub fn subtracted(self) -> f32 {
        self.dmin * f32::from(self.min)
    }
}

/// The best scales for given codes, from a closed-form solution. They are not rounded to stored values.
pub struct Best {
    /// The best factor of the levels for a format without minima.
    pub symmetric: f32,
    /// The best factor of the levels for a format with minima.
    pub factor: f32,
    /// The best minimum for a format with minima. It belongs to `factor`: both were computed together.
    pub subtracted: f32,
}

/// Alternatives to the current scales, without duplicates and without the current scales.
pub struct Choices {
    items: [Scales; MAX_CHOICES],
    count: usize,
    current: Scales,
}

impl Choices {
    /// Collects the storable scales near `best` and the neighbours of `current`. The best scales are the first ones.
    #[inline(always)]
    pub fn near(grid: &dyn Grid, scaling: Scaling, current: Scales, best: &Best) -> Self {
        let mut list = Self { items: [current; MAX_CHOICES], count: 0, current };
        match scaling {
            Scaling::Block => {
                // If the format stores only powers of two, the neighbours are the half and the double.
                let powers = grid.stored(current.d * 1.06) == current.d;
                let steps: &[f32] = if powers { &[1.0, 0.5, 2.0] } else { &MULTIPLES };
                for step in steps {
                    list.add(Scales { d: grid.stored(best.symmetric * step), ..current });
                }
            }
            Scaling::BlockAffine => {
                for step in MULTIPLES {
                    let (d, dmin) = (grid.stored(best.factor * step), grid.stored(best.subtracted));
                    list.add(Scales { d, dmin, ..current });
                }
            }
            Scaling::Groups { low, high } => {
                let best = nearest_integer(best.symmetric / current.d);
                for scale in
                    [best, best - 1, best + 1, current.scale - 1, current.scale + 1, best - 2, best + 2]
                {
                    list.add(Scales { scale: scale.clamp(low, high), ..current });
                }
            }
            Scaling::GroupsAffine { high } => {
                let min = nearest_integer(best.subtracted / current.dmin);
                let best = nearest_integer(best.factor / current.d);
                let pairs = [
                    (best, min),
                    (best - 1, min),
                    (best + 1, min),
                    (best, min - 1),
                    (best, min + 1),
                    (current.scale - 1, current.min),
                    (current.scale + 1, current.min),
                    (current.scale, current.min - 1),
                    (current.scale, current.min + 1),
                ];
                for (scale, min) in pairs {
                    list.add(Scales { scale: scale.clamp(0, high), min: min.clamp(0, high), ..current });
                }
            }
        }
        list
    }

    #[inline(always)]
    pub fn as_slice(&self) -> &[Scales] {
        &self.items[..self.count]
    }

    #[inline(always)]
    fn add(&mut self, scales: Scales) {
        let usable = scales.d.is_finite() && scales.dmin.is_finite();
        if usable && scales != self.current && !self.as_slice().contains(&scales) {
            self.items[self.count] = scales;
            self.count += 1;
        }
    }
}

/// Rounds to the nearest integer; returns 0 for NaN. The limits of ±1000 are far outside the range of stored integers.
fn nearest_integer(x: f32) -> i16 {
    x.clamp(-1000.0, 1000.0).round_ties_even() as i16
}
