//! What stands before the first block and after the last: embedding and head.

use super::pair::Pair;
use super::{Stream, Sums, embed, table};
use crate::statistics::{Inputs, Statistics};
use crate::work::Unit;
use crate::Error;
use kvant_model::{Block, Positions, STAGES, Slot};

/// Contexts of the float network that the tied head's inputs are gathered on, before the walk begins.
pub const HEAD_CONTEXTS: usize = 16;

impl Stream<'_> {
    /// The embedding. Where it is the head too, it is solved on what the float network gives the head to read.
    pub(super) fn embedding(&self) -> Result<Unit, Error> {
        let spec = self.weights.spec();
        self.say("embedding", 0, 0, 0)?;
        let tied = spec.head.is_none();
        let coded = self
            .assignment(&spec.embedding.weight())
            .is_some_and(|a| a.format != a.entry.format && a.format.grid().is_some());
        let mut sums = None;
        if tied && coded {
            let norm = self.weights.vector(&spec.output_norm.name)?;
            let table = table(self.weights, self.backend)?;
            let positions = Positions::new(spec, 0, self.calibration.length());
            let chosen: Vec<&Vec<u32>> = self.calibration.contexts().iter().take(HEAD_CONTEXTS).collect();
            let mut streams: Vec<Vec<f32>> = chosen.iter().map(|tokens| embed(&*table, tokens)).collect();
            for index in 0..spec.blocks.len() {
                let block = Block::load(self.weights, self.backend, index)?;
                for residual in &mut streams {
                    self.say("embedding: what the head reads", 0, 0, 0)?;
                    let mut x = block.enter(residual);
                    for stage in 0..STAGES {
                        x = block.advance_alone(stage, &x, residual, &positions);
                    }
                }
            }
            let mut all = Statistics::new(spec.hidden, false, None);
            for residual in &streams {
                let x = self.normed(residual, &norm);
                all.add(self.backend, &Inputs { quantized: &x, float: &x, residuals: None, weights: None });
            }
            all.finish();
            sums = Some(Sums { all, selection: None });
        }
        let tensors = self.solve(&[&spec.embedding], sums)?;
        Ok(Unit { tensors, residuals: None })
    }

    fn normed(&self, residual: &[f32], weight: &[f32]) -> Vec<f32> {
        let mut x = vec![0.0; residual.len()];
        kvant_kernels::ops::rms_norm(
            self.backend,
            residual,
            weight,
            self.weights.spec().norm_epsilon,
            &mut x,
        );
        x
    }

    /// The head, where it has weights of its own.
    pub(super) fn head(&self, slot: &Slot, residuals: &mut Pair) -> Result<Unit, Error> {
        let norm = self.weights.vector(&self.weights.spec().output_norm.name)?;
        let mut sums = self.sums(slot.columns, false);
        for context in 0..self.calibration.contexts().len() {
            self.say("head", self.weights.spec().blocks.len(), 0, context)?;
            let (rf, rq) = residuals.read(context, self.residual_numbers())?;
            let (xf, xq) = (self.normed(&rf, &norm), self.normed(&rq, &norm));
            self.add(
                &mut sums,
                context,
                &Inputs { quantized: &xq, float: &xf, residuals: None, weights: None },
            );
        }
        sums.finish();
        let tensors = self.solve(&[slot], Some(sums))?;
        Ok(Unit { tensors, residuals: None })
    }
}
