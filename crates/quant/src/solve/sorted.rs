//! A format's levels in rising order, so that the nearest one of many numbers is found without a branch.

use kvant_core::Levels;

/// Adding and subtracting it rounds to a whole number: 1.5 · 2²³.
const WHOLE: f32 = 12_582_912.0;

/// The levels, each once.
pub enum Sorted {
    /// Whole numbers of a range.
    Whole { low: f32, high: f32 },
    /// Levels, what to add from one to the next, and the borders between them.
    Steps { lowest: f32, steps: Vec<(f32, f32)> },
}

impl Sorted {
    pub fn new(levels: Levels) -> Self {
        match levels {
            Levels::Linear { count, offset } => {
                let low = -f32::from(offset);
                Self::Whole { low, high: low + f32::from(count - 1) }
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

    /// The level nearest to each of `x`.
    #[inline(always)]
    pub fn nearest<const N: usize>(&self, x: &[f32; N]) -> [f32; N] {
        match self {
            Self::Whole { low, high } => {
                let mut level = [0.0; N];
                for i in 0..N {
                    level[i] = (x[i].max(*low).min(*high) + WHOLE) - WHOLE;
                }
                level
            }
            Self::Steps { lowest, steps } => {
                let mut level = [*lowest; N];
                for (border, step) in steps {
                    for i in 0..N {
                        level[i] += if x[i] > *border { *step } else { 0.0 };
                    }
                }
                level
            }
        }
    }
}
