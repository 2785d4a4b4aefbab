//! What the steps of a walk through a network have cost: seconds, and multiply-adds where they are counted.

use serde::Serialize;
use std::time::Instant;

/// One kind of step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, schemars::JsonSchema)]
pub struct Step {
    /// Wall time.
    pub seconds: f64,
    /// Multiply-adds of matrix products; 0 where nobody counts.
    pub multiply_adds: f64,
}

/// All of them; reading, writing and the check of the file are in none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, schemars::JsonSchema)]
pub struct Cost {
    /// Writing text of the network's own.
    pub own_text: Step,
    /// Gradients, and sums of them.
    pub sensitivity: Step,
    /// Running both networks.
    pub passes: Step,
    /// Sums of products over tokens.
    pub sums: Step,
    /// Trying settings on selection text.
    pub choosing: Step,
    /// Solving maps.
    pub solving: Step,
}

/// Names a step.
#[derive(Clone, Copy)]
pub enum Part {
    /// [`Cost::own_text`].
    OwnText,
    /// [`Cost::sensitivity`].
    Sensitivity,
    /// [`Cost::passes`].
    Passes,
    /// [`Cost::sums`].
    Sums,
    /// [`Cost::choosing`].
    Choosing,
    /// [`Cost::solving`].
    Solving,
}

impl Cost {
    /// Does `work` and books it.
    pub fn time<T>(&mut self, part: Part, multiply_adds: f64, work: impl FnOnce() -> T) -> T {
        let begin = Instant::now();
        let done = work();
        let step = match part {
            Part::OwnText => &mut self.own_text,
            Part::Sensitivity => &mut self.sensitivity,
            Part::Passes => &mut self.passes,
            Part::Sums => &mut self.sums,
            Part::Choosing => &mut self.choosing,
            Part::Solving => &mut self.solving,
        };
        step.seconds += begin.elapsed().as_secs_f64();
        step.multiply_adds += multiply_adds;
        done
    }
}
