//! Runs one network through a block, stage by stage and context by context. A stage is the set of linear layers (maps)
//! of a block that read the same input. Files hold the input of the next stage and the stream.
//!
//! Invariant: the stream before the block is never changed, so that a run can restart the block after a crash.

use crate::Error;
use crate::gather::ActivationFile;
use crate::work_folder::WorkFolder;
use kvant_model::{Block, Positions, Stage};

/// The activations of a context between two stages.
#[derive(Clone)]
pub struct State {
    /// The stream: the residual stream, tokens × hidden, followed by the values that later blocks read beside it.
    pub stream: Vec<f32>,
    /// The next stage's input, tokens × columns; empty after the last stage.
    pub input: Vec<f32>,
}

/// The stages of a block and the shape of a context. The runners of both networks share this data.
pub struct Path<'a> {
    pub stages: &'a [Stage<'a>],
    pub positions: &'a Positions,
    /// Tokens of a context.
    pub length: usize,
    /// The number of elements of the stream for each token.
    pub stream_width: usize,
}

/// Runs one of the two networks (float or quantized) in one block. The files `before` and `after` hold the stream
/// before and after the block. The file `input` holds the input of the next stage.
pub struct BlockRunner<'a> {
    pub block: Block,
    path: &'a Path<'a>,
    before: &'a mut ActivationFile,
    input: ActivationFile,
    /// The stream after the first stage that changes it.
    middle: ActivationFile,
    after: &'a mut ActivationFile,
}

impl<'a> BlockRunner<'a> {
    /// Creates the runner of the network `name`. `before` and `after` are the files for the residual stream before and
    /// after the block.
    ///
    /// # Errors
    /// Errors of the work folder.
    pub fn new(
        work: &WorkFolder,
        name: &str,
        block: Block,
        path: &'a Path<'a>,
        before: &'a mut ActivationFile,
        after: &'a mut ActivationFile,
    ) -> Result<Self, Error> {
        let widest = path.stages.iter().map(Stage::input_width).max().unwrap_or(0);
        let open = |file: &str, columns: usize| {
            ActivationFile::open(&work.path(&format!("{file}-{name}.f32")), path.length * columns)
        };
        Ok(Self {
            block,
            path,
            before,
            input: open("input", widest)?,
            middle: open("middle", path.stream_width)?,
            after,
        })
    }

    /// Reads the activations of context `context` before stage number `stage`.
    pub fn before(&mut self, stage: usize, context: usize) -> Result<State, Error> {
        let Path { stages, length, stream_width, .. } = *self.path;
        let written = (0..stage).any(|stage| self.block.changes_stream(stage));
        let stream = if written { &mut self.middle } else { &mut *self.before };
        let stream = stream.read(context, length * stream_width)?;
        let input = match stage {
            0 => self.block.enter(&stream),
            _ => self.input.read(context, length * stages[stage].input_width())?,
        };
        Ok(State { stream, input })
    }

    /// Runs stage number `stage` on the activations of one context. Returns the activations after the stage.
    pub fn advance(&self, stage: usize, mut state: State) -> State {
        let positions = self.path.positions;
        state.input = self.block.advance_alone(stage, &state.input, &mut state.stream, positions);
        state
    }

    /// Writes the activations of context `context` after stage number `stage` to the files.
    pub fn store(&mut self, stage: usize, context: usize, state: &State) -> Result<(), Error> {
        let stages = self.path.stages;
        if stage + 1 == stages.len() {
            return self.after.write(context, &state.stream);
        }
        self.input.write(context, &state.input)?;
        if self.block.changes_stream(stage) {
            self.middle.write(context, &state.stream)?;
        }
        Ok(())
    }
}
