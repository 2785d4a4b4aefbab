//! One network's way through a block: what a stage reads and the residual stream beside it, context by context, in
//! files.
//!
//! Invariant: the residual stream before the block is never written to, so that a killed run can start the block again.

use crate::Error;
use crate::gather::ActivationFile;
use crate::work_folder::WorkFolder;
use kvant_model::{Block, Positions, Stage};

/// A context on its way.
#[derive(Clone)]
pub struct State {
    /// The residual stream, tokens × hidden.
    pub residual: Vec<f32>,
    /// What the next stage reads, tokens × its columns; empty after the last.
    pub input: Vec<f32>,
}

/// What both networks' sides share.
pub struct Path<'a> {
    pub stages: &'a [Stage<'a>],
    pub positions: &'a Positions,
    /// Tokens of a context.
    pub length: usize,
    /// Numbers of a token in the residual stream.
    pub hidden: usize,
}

/// One of the two networks in one block.
pub struct BlockRunner<'a> {
    pub block: Block,
    path: &'a Path<'a>,
    before: &'a mut ActivationFile,
    input: ActivationFile,
    /// The residual stream after the first stage that writes to it.
    middle: ActivationFile,
    after: &'a mut ActivationFile,
}

impl<'a> BlockRunner<'a> {
    /// The side called `name`, with the residual stream `before` the block and what it will be `after`.
    pub fn new(
        work: &WorkFolder,
        name: &str,
        block: Block,
        path: &'a Path<'a>,
        before: &'a mut ActivationFile,
        after: &'a mut ActivationFile,
    ) -> Result<Self, Error> {
        let widest = path.stages.iter().map(|s| s.slots[0].columns).max().unwrap_or(0);
        let open = |file: &str, columns: usize| {
            ActivationFile::open(&work.path(&format!("{file}-{name}.f32")), path.length * columns)
        };
        Ok(Self {
            block,
            path,
            before,
            input: open("input", widest)?,
            middle: open("middle", path.hidden)?,
            after,
        })
    }

    /// A context before `stage`, as the stage before it has left it.
    pub fn before(&mut self, stage: usize, context: usize) -> Result<State, Error> {
        let Path { stages, length, hidden, .. } = *self.path;
        let written = stages[..stage].iter().any(|s| s.residual);
        let place = if written { &mut self.middle } else { &mut *self.before };
        let residual = place.read(context, length * hidden)?;
        let input = match stage {
            0 => self.block.enter(&residual),
            _ => self.input.read(context, length * stages[stage].slots[0].columns)?,
        };
        Ok(State { residual, input })
    }

    /// Runs `stage` on a context.
    pub fn advance(&self, stage: usize, mut state: State) -> State {
        let positions = self.path.positions;
        state.input = self.block.advance_alone(stage, &state.input, &mut state.residual, positions);
        state
    }

    /// Keeps what has become of a context after `stage`.
    pub fn keep(&mut self, stage: usize, context: usize, state: &State) -> Result<(), Error> {
        let stages = self.path.stages;
        if stage + 1 == stages.len() {
            return self.after.write(context, &state.residual);
        }
        self.input.write(context, &state.input)?;
        if stages[stage].residual {
            self.middle.write(context, &state.residual)?;
        }
        Ok(())
    }
}
