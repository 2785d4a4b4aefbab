//! The cost of the steps of a walk through a network: seconds, and multiply-adds for steps that count them.

use serde::Serialize;
use std::time::Instant;

/// The cost of one kind of step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, schemars::JsonSchema)]
pub struct Step {
    /// Wall time.
    pub seconds: f64,
    /// Multiply-adds of matrix products; 0 if the step does not count them.
    pub multiply_adds: f64,
}

/// The cost of all steps of the walk. Reading, writing and validating the file are not included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, schemars::JsonSchema)]
pub struct Cost {
    /// Writing self-generated text.
    pub own_text: Step,
    /// Computing gradients and their sums.
    pub sensitivity: Step,
    /// Forward passes of both networks.
    pub passes: Step,
    /// Computing sums of products over tokens.
    pub sums: Step,
    /// Choosing settings on selection text (the part of the calibration text that is held out to choose settings).
    pub choosing: Step,
    /// Solving linear layers (maps).
    pub solving: Step,
}

/// A kind of step.
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
    /// Runs `work` and adds its time and `multiply_adds` to the step.
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
