//! What scales a group of codes, and which other choices are worth a try.
//!
//! Shared by the methods that move stored scales under codes: [`super::descent`] under the full quadratic,
//! [`super::separate`] where columns count for themselves.

use kvant_core::{Codes, Grid, Scaling};

/// Factors at which a block's scale is tried beside the closed-form one.
const NEAR: [f32; 5] = [1.0, 0.975, 1.025, 0.94, 1.06];
/// Most choices beside the present one.
const MOST: usize = 10;

/// One choice of what scales a group.
#[derive(Clone, Copy, PartialEq)]
pub struct Scales {
    pub d: f32,
    pub dmin: f32,
    pub scale: i16,
    pub min: i16,
}

impl Scales {
    pub fn of(codes: &Codes, group: usize) -> Self {
        Self { d: codes.d, dmin: codes.dmin, scale: codes.scales[group], min: codes.mins[group] }
    }

    /// What levels are multiplied by.
    pub fn factor(self) -> f32 {
        self.d * f32::from(self.scale)
    }

    /// What is subtracted from every value.
    pub fn subtracted(self) -> f32 {
        self.dmin * f32::from(self.min)
    }
}

/// Closed-form best factors under some codes.
pub struct Best {
    /// The factor where nothing is subtracted.
    pub symmetric: f32,
    /// The factor where something is.
    pub factor: f32,
    /// What is subtracted then.
    pub subtracted: f32,
}

/// Choices without repetition.
pub struct Choices {
    items: [Scales; MOST],
    count: usize,
    now: Scales,
}

impl Choices {
    /// What can be stored near `best`, and the neighbours of `now`.
    #[inline(always)]
    pub fn near(grid: &dyn Grid, scaling: Scaling, now: Scales, best: &Best) -> Self {
        let mut list = Self { items: [now; MOST], count: 0, now };
        match scaling {
            Scaling::Block => {
                // A stored power of two has no neighbours but its half and its double.
                let powers = grid.stored(now.d * 1.06) == now.d;
                let steps: &[f32] = if powers { &[1.0, 0.5, 2.0] } else { &NEAR };
                for step in steps {
                    list.add(Scales { d: grid.stored(best.symmetric * step), ..now });
                }
            }
            Scaling::BlockAffine => {
                for step in NEAR {
                    let (d, dmin) = (grid.stored(best.factor * step), grid.stored(best.subtracted));
                    list.add(Scales { d, dmin, ..now });
                }
            }
            Scaling::Groups { low, high } => {
                let best = nearest_integer(best.symmetric / now.d);
                for scale in [best, best - 1, best + 1, now.scale - 1, now.scale + 1, best - 2, best + 2] {
                    list.add(Scales { scale: scale.clamp(low, high), ..now });
                }
            }
            Scaling::GroupsAffine { high } => {
                let min = nearest_integer(best.subtracted / now.dmin);
                let best = nearest_integer(best.factor / now.d);
                let pairs = [
                    (best, min),
                    (best - 1, min),
                    (best + 1, min),
                    (best, min - 1),
                    (best, min + 1),
                    (now.scale - 1, now.min),
                    (now.scale + 1, now.min),
                    (now.scale, now.min - 1),
                    (now.scale, now.min + 1),
                ];
                for (scale, min) in pairs {
                    list.add(Scales { scale: scale.clamp(0, high), min: min.clamp(0, high), ..now });
                }
            }
        }
        list
    }

    /// The choices.
    #[inline(always)]
    pub fn as_slice(&self) -> &[Scales] {
        &self.items[..self.count]
    }

    #[inline(always)]
    fn add(&mut self, scales: Scales) {
        let usable = scales.d.is_finite() && scales.dmin.is_finite();
        if usable && scales != self.now && !self.as_slice().contains(&scales) {
            self.items[self.count] = scales;
            self.count += 1;
        }
    }
}

/// Far outside what is stored it does not matter by how much; 0 for NaN.
fn nearest_integer(x: f32) -> i16 {
    x.clamp(-1000.0, 1000.0).round_ties_even() as i16
}
