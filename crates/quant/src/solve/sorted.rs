//! The levels of a format in ascending order. They give the nearest level of many values without a branch for each
//! value.

use kvant_core::Levels;

/// If this value is added and then subtracted, the result is rounded to an integer: 1.5 · 2²³.
const ROUNDER: f32 = 12_582_912.0;

/// The distinct levels of a format.
pub enum SortedLevels {
    /// All integers from `low` to `high`, inclusive.
    Integers { low: f32, high: f32 },
    /// The lowest level, and one step for each higher level. A step has the midpoint to the level before, and the
    /// difference from the level before.
    Steps { lowest: f32, steps: Vec<(f32, f32)> },
}

impl SortedLevels {
    pub fn new(levels: Levels) -> Self {
        match levels {
            Levels::Linear { count, offset } => {
                let low = -f32::from(offset);
                Self::Integers { low, high: low + f32::from(count - 1) }
            }
            Levels::Table(table) => {
                let mut all = table.to_vec();
                all.sort_unstable();
                all.dedup();
                let step = |pair: &[i8]| {
                    let (a, b) = (f32::from(pair[0]), f32::from(pair[1]));
                    ((a + b) / 2.0, b - a)
                };
                Self::Steps { lowest: f32::from(all[0]), steps: all.windows(2).map(step).collect() }
            }
        }
    }

    /// Returns the level nearest to each value of `x`.
    #[inline(always)]
    pub fn nearest<const N: usize>(&self, x: &[f32; N]) -> [f32; N] {
        match self {
            Self::Integers { low, high } => {
                let mut level = [0.0; N];
                for i in 0..N {
                    level[i] = (x[i].max(*low).min(*high) + ROUNDER) - ROUNDER;
                }
                level
            }
            Self::Steps { lowest, steps } => {
                let mut level = [*lowest; N];
                for (midpoint, step) in steps {
                    for i in 0..N {
                        level[i] += if x[i] > *midpoint { *step } else { 0.0 };
                    }
                }
                level
            }
        }
    }
}
