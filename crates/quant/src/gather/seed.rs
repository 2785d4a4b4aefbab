//! The seed of a run's random values.

/// The seed of a run. Self-generated text and the random labels for gradients are drawn with this seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(pub u64);

impl Seed {
    /// Returns the seed of context `index`.
    pub fn of(self, index: usize) -> u64 {
        self.0.rotate_left(32).wrapping_add(index as u64)
    }
}
