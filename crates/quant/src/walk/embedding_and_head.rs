//! Solves the embedding and the output head, and measures the loss of the solved network.

use super::residual_pair::ResidualPair;
use super::stages::{Choices, Sums, Walk};
use super::unit::Unit;
use crate::Error;
use crate::gather::{
    BlockSensitivities, Head, Inputs, LOGIT_ROWS, Missing, SENSITIVITY_CONTEXTS, Statistics,
    compared_positions,
};
use crate::work_folder::HEAD_INPUT;
use kvant_core::Tensor;
use kvant_model::{Block, Embedding, Positions, Slot};

/// Maximum number of contexts on which the loss is measured.
const EXPECTED_CONTEXTS: usize = 8;

/// The loss of the quantized network on calibration text.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, schemars::JsonSchema)]
pub struct Expected {
    /// Mean KL divergence from the float network, in nats per token.
    pub kld: f64,
    /// Mean KL divergence from the float network if only the head is quantized, in nats per token.
    pub head_kld: f64,
    /// The number of contexts on which the loss was measured.
    pub contexts: usize,
}

impl Walk<'_> {
    /// Solves the embedding. If the embedding is also the output head (tied), it is solved with statistics of the
    /// head's input in the float network.
    pub(super) fn embedding(&self) -> Result<Unit, Error> {
        let spec = self.weights.spec();
        self.report("embedding", 0, 0, 0)?;
        let tied = spec.output.head.is_tied();
        let quantized = self
            .assignment(&spec.embedding.tokens.weight())
            .is_some_and(|a| a.format != a.entry.format && a.format.grid().is_some());
        let mut sums = None;
        if tied && quantized {
            let mut all = Statistics::new(spec.hidden, Missing::Nothing);
            if self.work.has_floats(HEAD_INPUT)? {
                // The computation of gradients has saved this sum for the same contexts.
                all.gram = self.work.load_floats(HEAD_INPUT, spec.hidden * spec.hidden)?;
            } else {
                self.add_head_inputs(&mut all)?;
            }
            all.finish();
            sums = Some(Sums { all, selection: None, experts: Vec::new() });
        }
        let tensors =
            self.solve(&[&spec.embedding.tokens], sums, &BlockSensitivities::new(), &Choices::new())?;
        Ok(Unit { tensors, residuals: None })
    }

    /// Adds the input of the float network's head to the sums, for [`SENSITIVITY_CONTEXTS`] contexts.
    fn add_head_inputs(&self, sums: &mut Statistics) -> Result<(), Error> {
        let spec = self.weights.spec();
        let head = Head::new(self.weights, self.backend)?;
        let embedding = Embedding::load(self.weights, self.backend)?;
        let positions = Positions::new(spec, 0, self.calibration.length());
        let chosen = self.calibration.evenly(SENSITIVITY_CONTEXTS);
        let mut streams: Vec<Vec<f32>> = chosen.map(|tokens| embedding.rows(tokens, 0..)).collect();
        for index in 0..spec.blocks.len() {
            let block = Block::load(self.weights, self.backend, index)?;
            for stream in &mut streams {
                self.report("embedding: what the head reads", 0, 0, 0)?;
                block.forward_alone(stream, &positions);
            }
        }
        for stream in &streams {
            let states = head.states(spec.residual(stream));
            sums.add(self.backend, &Inputs { quantized: &states, missed: &[], weights: None });
        }
        Ok(())
    }

    /// Solves a head that is not tied to the embedding.
    pub(super) fn head(&self, slot: &Slot, residuals: &mut ResidualPair) -> Result<Unit, Error> {
        let head = Head::new(self.weights, self.backend)?;
        let mut sums = self.sums(slot.columns, Missing::Input, true);
        for context in 0..self.calibration.contexts().len() {
            self.report("head", self.weights.spec().blocks.len(), 0, context)?;
            let (rf, rq) = residuals.read(context, self.stream_values())?;
            let spec = self.weights.spec();
            let (xf, xq) = (head.states(spec.residual(&rf)), head.states(spec.residual(&rq)));
            let missed = if self.recipe.method.corrects() { self.difference(xf, &xq) } else { Vec::new() };
            self.add(&mut sums, context, &Inputs { quantized: &xq, missed: &missed, weights: None });
        }
        sums.finish();
        let tensors = self.solve(&[slot], Some(sums), &BlockSensitivities::new(), &Choices::new())?;
        Ok(Unit { tensors, residuals: None })
    }

    /// Measures the KL divergence of the solved network from the float network on selection text (the part of the
    /// calibration text that is held out to choose settings). Measures at every second position of the second half of
    /// each context. The final solutions used this text for calibration too. `solved` is the solved output head.
    /// Returns `None` if the contexts are too short.
    pub(super) fn expected(
        &self,
        residuals: &mut ResidualPair,
        solved: &Tensor,
    ) -> Result<Option<Expected>, Error> {
        let spec = self.weights.spec();
        let (head, length) = (Head::new(self.weights, self.backend)?, self.calibration.length());
        let (float, quantized) = (head.float_matrix()?, Some(head.matrix(solved)?));
        let all = 0..self.calibration.contexts().len();
        let mut contexts: Vec<usize> =
            all.clone().filter(|&i| self.calibration.selects(i) && !self.calibration.is_noise(i)).collect();
        if contexts.is_empty() {
            contexts = all.collect();
        }
        contexts.truncate(EXPECTED_CONTEXTS);
        let positions = compared_positions(length, 2);
        if positions.is_empty() {
            return Ok(None);
        }
        let mut expected = Expected { kld: 0.0, head_kld: 0.0, contexts: contexts.len() };
        for &context in &contexts {
            self.report("what it came to", spec.blocks.len(), 0, 0)?;
            let (rf, rq) = residuals.read(context, self.stream_values())?;
            for positions in positions.chunks(LOGIT_ROWS) {
                let (xf, xq) = (head.states_at(&rf, positions), head.states_at(&rq, positions));
                let reference = head.logits(&float, &xf);
                expected.kld += head.divergence(&reference, &head.logits(&quantized, &xq));
                expected.head_kld += head.divergence(&reference, &head.logits(&quantized, &xf));
            }
        }
        let count = (contexts.len() * positions.len()) as f64;
        expected.kld /= count;
        expected.head_kld /= count;
        Ok(Some(expected))
    }
}
