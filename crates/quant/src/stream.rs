//! The walk through a network block by block, for methods that look at activations.
//!
//! ```text
//! embedding: solved on the float head's inputs where head and embedding are one
//! both residual streams ← embedding of every context       (float network's, quantized network's)
//! for each block:
//!     for each stage (maps that read one activation):
//!         sums over all contexts of the stage's two inputs  (`statistics`)
//!         solve the stage's maps; the quantized network goes on with what was solved
//!     save the block and both residual streams
//! head, where it has weights of its own
//! ```
//!
//! One block is in memory, and one context's activations; those of all contexts lie in the work folder. A run that
//! was stopped goes on after the last saved block, byte for byte as if it had not been stopped. Left out: writing
//! the output (`pipeline`).

use crate::activations::Activations;
use crate::importance::Entry;
use crate::pipeline::{Progress, Recipe};
use crate::statistics::{Inputs, Statistics};
use crate::work::{Unit, Work};
use crate::{Assignment, Calibration, Error, Importance, Layer, Solved};
use kvant_core::Tensor;
use kvant_kernels::{Backend, Matrix};
use kvant_model::{Block, Positions, STAGES, Slot, Weights};
use std::collections::{BTreeMap, HashMap};

/// Contexts of the float network that the tied head's inputs are gathered on, before the walk begins.
const HEAD_CONTEXTS: usize = 16;

/// What the walk needs.
pub struct Stream<'a> {
    /// The float network.
    pub weights: &'a Weights,
    /// What to do.
    pub recipe: &'a Recipe,
    /// The format of every tensor.
    pub assignments: &'a [Assignment],
    /// The text.
    pub calibration: &'a Calibration,
    /// Where unfinished work lies.
    pub work: &'a Work,
    /// What products run on.
    pub backend: &'a Backend,
    /// Who is told.
    pub progress: &'a dyn Progress,
}

/// The streams of both networks between two blocks or stages.
struct Pair {
    float: Activations,
    quantized: Activations,
}

impl Pair {
    fn open(work: &Work, name: &str, numbers: usize) -> Result<Self, Error> {
        Ok(Self {
            float: Activations::open(&work.path(&format!("{name}-float.f32")), numbers)?,
            quantized: Activations::open(&work.path(&format!("{name}-quantized.f32")), numbers)?,
        })
    }

    fn read(&mut self, context: usize, count: usize) -> Result<(Vec<f32>, Vec<f32>), Error> {
        Ok((self.float.read(context, count)?, self.quantized.read(context, count)?))
    }

    fn write(&mut self, context: usize, float: &[f32], quantized: &[f32]) -> Result<(), Error> {
        self.float.write(context, float)?;
        self.quantized.write(context, quantized)
    }

    fn digests(&mut self) -> Result<(String, String), Error> {
        let text = |hash: blake3::Hash| hash.to_hex().to_string();
        Ok((text(self.float.digest()?), text(self.quantized.digest()?)))
    }
}

/// Sums of one stage: what is solved on, and what is chosen by.
struct Sums {
    all: Statistics,
    selection: Option<Statistics>,
}

impl Sums {
    fn finish(&mut self) {
        self.all.finish();
        if let Some(selection) = &mut self.selection {
            selection.finish();
        }
    }
}

impl Stream<'_> {
    /// Solves every linear map that does not keep its format; what other tensors become is not this walk's business.
    ///
    /// # Errors
    /// What reading, solving or the work folder says; [`Error::Interrupted`].
    pub fn run(&self) -> Result<HashMap<String, Solved>, Error> {
        let spec = self.weights.spec();
        let mut solved = HashMap::new();
        let embedding = self.unit("embedding", || self.embedding())?;
        let table = match embedding.tensors.first() {
            Some((_, solved)) => solved.tensor.clone(),
            None => self.weights.tensor(&spec.embedding.weight())?,
        };
        solved.extend(embedding.tensors);
        let (mut next, mut residuals) = self.resume(&mut solved, &table)?;
        while next < spec.blocks.len() {
            let unit = self.block(next, &mut residuals)?;
            self.work.save(&block_name(next), &unit)?;
            solved.extend(unit.tensors);
            next += 1;
        }
        if let Some(head) = &spec.head {
            let unit = self.unit("head", || self.head(head, &mut residuals[next % 2]))?;
            solved.extend(unit.tensors);
        }
        Ok(solved)
    }

    fn unit(&self, name: &str, solve: impl FnOnce() -> Result<Unit, Error>) -> Result<Unit, Error> {
        if let Some(unit) = self.work.load(name)? {
            return Ok(unit);
        }
        let unit = solve()?;
        self.work.save(name, &unit)?;
        Ok(unit)
    }

    fn say(&self, what: &str, block: usize) -> Result<(), Error> {
        if self.progress.stop() {
            return Err(Error::Interrupted);
        }
        let blocks = self.weights.spec().blocks.len();
        self.progress.at(block as u64, blocks as u64 + 1, what);
        Ok(())
    }

    /// Numbers of a context's residual stream.
    fn residual_numbers(&self) -> usize {
        self.calibration.length() * self.weights.spec().hidden
    }

    /// The first block without a saved solution, and the residual streams before it (at its parity).
    fn resume(
        &self,
        solved: &mut HashMap<String, Solved>,
        table: &Tensor,
    ) -> Result<(usize, [Pair; 2]), Error> {
        let numbers = self.residual_numbers();
        let mut residuals =
            [Pair::open(self.work, "residual-0", numbers)?, Pair::open(self.work, "residual-1", numbers)?];
        let (mut next, mut expected) = (0, None);
        while next < self.weights.spec().blocks.len()
            && let Some(unit) = self.work.load(&block_name(next))?
        {
            expected = unit.residuals.clone();
            solved.extend(unit.tensors);
            next += 1;
        }
        let needed = next < self.weights.spec().blocks.len() || self.weights.spec().head.is_some();
        if next > 0 && needed && expected != Some(residuals[next % 2].digests()?) {
            return Err(Error::WorkDamaged {
                path: self.work.path(&format!("residual-{}-float.f32", next % 2)),
            });
        }
        if next == 0 {
            let spec = self.weights.spec();
            let float = crate::stream::table(self.weights, self.backend)?;
            let quantized = load(self.weights, self.backend, table, spec.embedding.weight())?;
            for (i, tokens) in self.calibration.contexts().iter().enumerate() {
                let rows = |table: &dyn Matrix| embed(table, tokens);
                residuals[0].write(i, &rows(&*float), &rows(&*quantized))?;
            }
        }
        Ok((next, residuals))
    }

    fn assignment(&self, name: &str) -> Option<&Assignment> {
        self.assignments.iter().find(|a| a.entry.name == name)
    }

    /// Solves one map, unless it keeps its format.
    fn solve(&self, slot: &Slot, sums: Option<&Sums>) -> Result<Option<(String, Solved)>, Error> {
        let name = slot.weight();
        let Some(assignment) = self.assignment(&name).filter(|a| a.format != a.entry.format) else {
            return Ok(None);
        };
        let weight = self.weights.tensor(&name)?;
        let importance = sums.map(|s| s.all.mean_squares());
        let layer = Layer {
            name: &name,
            weight: &weight,
            importance: importance.as_deref(),
            statistics: sums.map(|s| &s.all),
            selection: sums.and_then(|s| s.selection.as_ref()),
            settings: self.recipe.settings,
            backend: self.backend,
        };
        let solved = self.recipe.method.solve(&layer, assignment.format)?;
        crate::pipeline::check_finite(self.weights.path(), &name, &solved, assignment.format)?;
        Ok(Some((name, solved)))
    }

    fn sums(&self, columns: usize, residual: bool) -> Sums {
        let hidden = residual.then_some(self.weights.spec().hidden);
        let method = self.recipe.method;
        let empty = || Statistics::new(columns, method.corrects(), hidden);
        let contexts = 0..self.calibration.contexts().len();
        let selects = method.chooses() && contexts.into_iter().any(|i| self.calibration.selects(i));
        Sums { all: empty(), selection: selects.then(empty) }
    }

    fn add(&self, sums: &mut Sums, context: usize, inputs: &Inputs) {
        match &mut sums.selection {
            Some(selection) if self.calibration.selects(context) => selection.add(self.backend, inputs),
            _ => sums.all.add(self.backend, inputs),
        }
    }

    /// One block: its maps solved, the residual streams after it written.
    fn block(&self, index: usize, residuals: &mut [Pair; 2]) -> Result<Unit, Error> {
        let spec = &self.weights.spec().blocks[index];
        let (length, numbers) = (self.calibration.length(), self.residual_numbers());
        let float = Block::load(self.weights, self.backend, index)?;
        let mut quantized = float.clone();
        let positions = Positions::new(self.weights.spec(), 0, length);
        let widest = spec.stages().iter().map(|s| s.slots[0].columns).max().unwrap_or(0);
        let mut inputs = Pair::open(self.work, "input", length * widest)?;
        let mut middle = Pair::open(self.work, "middle", numbers)?;
        let [even, odd] = residuals;
        let (before, after) = if index.is_multiple_of(2) { (even, odd) } else { (odd, even) };
        let mut tensors = Vec::new();
        let stages = spec.stages();
        for (number, stage) in stages.iter().enumerate() {
            let what = format!("block {index}: {}", stage.slots[0].name);
            let columns = stage.slots[0].columns;
            let mut sums = self.sums(columns, stage.residual);
            for context in 0..self.calibration.contexts().len() {
                self.say(&what, index)?;
                let place = if number <= 2 { &mut *before } else { &mut middle };
                let (mut rf, mut rq) = place.read(context, numbers)?;
                let (xf, xq) = if number == 0 {
                    (float.enter(&rf), quantized.enter(&rq))
                } else {
                    let earlier = stages[number - 1].slots[0].columns;
                    let (xf, xq) = if number == 1 {
                        (float.enter(&rf), quantized.enter(&rq))
                    } else {
                        inputs.read(context, length * earlier)?
                    };
                    let next = |block: &Block, x: &[f32], r: &mut [f32]| {
                        block.advance_alone(number - 1, x, r, &positions)
                    };
                    let advanced = (next(&float, &xf, &mut rf), next(&quantized, &xq, &mut rq));
                    inputs.write(context, &advanced.0, &advanced.1)?;
                    advanced
                };
                if number == 2 {
                    middle.write(context, &rf, &rq)?;
                }
                let residuals = stage.residual.then_some((&*rq, &*rf));
                let weights = stage.residual.then(|| {
                    let mut after = rf.clone();
                    float.advance_alone(number, &xf, &mut after, &positions);
                    token_weights(&after, self.weights.spec().hidden)
                });
                let weights = weights.as_deref();
                self.add(&mut sums, context, &Inputs { quantized: &xq, float: &xf, residuals, weights });
            }
            sums.finish();
            for slot in &stage.slots {
                if let Some((name, solved)) = self.solve(slot, Some(&sums))? {
                    quantized.replace(&name, &solved.tensor, self.weights)?;
                    tensors.push((name, solved));
                }
            }
        }
        let last = STAGES - 1;
        for context in 0..self.calibration.contexts().len() {
            self.say(&format!("block {index}: onwards"), index)?;
            let (mut rf, mut rq) = middle.read(context, numbers)?;
            let (xf, xq) = inputs.read(context, length * stages[last].slots[0].columns)?;
            float.advance_alone(last, &xf, &mut rf, &positions);
            quantized.advance_alone(last, &xq, &mut rq, &positions);
            after.write(context, &rf, &rq)?;
        }
        Ok(Unit { tensors, residuals: Some(after.digests()?) })
    }

    /// The embedding. Where it is the head too, it is solved on what the float network gives the head to read.
    fn embedding(&self) -> Result<Unit, Error> {
        let spec = self.weights.spec();
        self.say("embedding", 0)?;
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
                    self.say("embedding: what the head reads", 0)?;
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
        let tensors = self.solve(&spec.embedding, sums.as_ref())?.into_iter().collect();
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
    fn head(&self, slot: &Slot, residuals: &mut Pair) -> Result<Unit, Error> {
        let norm = self.weights.vector(&self.weights.spec().output_norm.name)?;
        let mut sums = self.sums(slot.columns, false);
        for context in 0..self.calibration.contexts().len() {
            self.say("head", self.weights.spec().blocks.len())?;
            let (rf, rq) = residuals.read(context, self.residual_numbers())?;
            let (xf, xq) = (self.normed(&rf, &norm), self.normed(&rq, &norm));
            self.add(
                &mut sums,
                context,
                &Inputs { quantized: &xq, float: &xf, residuals: None, weights: None },
            );
        }
        sums.finish();
        let tensors = self.solve(slot, Some(&sums))?.into_iter().collect();
        Ok(Unit { tensors, residuals: None })
    }
}

/// How much an error on each token counts, where it is added to the residual stream: what follows sees the stream
/// divided by its root mean square, so the larger that is, the less. Harmonic over the context, 1 on average.
fn token_weights(residual: &[f32], hidden: usize) -> Vec<f32> {
    let squares = residual.chunks_exact(hidden).map(|row| row.iter().map(|x| x * x).sum::<f32>().max(1e-20));
    let mut weights: Vec<f32> = squares.map(|square| 1.0 / square).collect();
    let mean = weights.iter().sum::<f32>() / weights.len() as f32;
    weights.iter_mut().for_each(|w| *w /= mean);
    weights
}

fn block_name(index: usize) -> String {
    format!("block-{index:04}")
}

fn embed(table: &dyn Matrix, tokens: &[u32]) -> Vec<f32> {
    let width = table.columns();
    let mut rows = vec![0.0; tokens.len() * width];
    for (row, &token) in rows.chunks_exact_mut(width).zip(tokens) {
        table.row(token as usize, row);
    }
    rows
}

/// Sums of squares of every map's input in the float network: what llama-imatrix gathers.
///
/// # Errors
/// What reading or a kernel says; [`Error::Interrupted`].
pub fn gather_importance(
    weights: &Weights,
    calibration: &Calibration,
    backend: &Backend,
    progress: &dyn Progress,
) -> Result<Importance, Error> {
    let spec = weights.spec();
    let table = table(weights, backend)?;
    let positions = Positions::new(spec, 0, calibration.length());
    let blocks: Vec<Block> =
        (0..spec.blocks.len()).map(|index| Block::load(weights, backend, index)).collect::<Result<_, _>>()?;
    let mut sums: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let all = calibration.contexts().len();
    for (done, tokens) in calibration.contexts().iter().enumerate() {
        if progress.stop() {
            return Err(Error::Interrupted);
        }
        progress.at(done as u64, all as u64 + 1, "importance of columns");
        let mut residual = embed(&*table, tokens);
        for (block, spec) in blocks.iter().zip(&spec.blocks) {
            let mut x = block.enter(&residual);
            for (number, stage) in spec.stages().iter().enumerate() {
                let columns = stage.slots[0].columns;
                let sum = sums.entry(stage.slots[0].weight()).or_insert_with(|| vec![0.0; columns]);
                for row in x.chunks_exact(columns) {
                    sum.iter_mut().zip(row).for_each(|(s, &x)| *s += f64::from(x * x));
                }
                x = block.advance_alone(number, &x, &mut residual, &positions);
            }
        }
    }
    let counts = vec![calibration.tokens() as f32];
    let mut importance = Importance {
        datasets: vec![calibration.source().to_owned()],
        chunk_count: all as u32,
        chunk_size: calibration.length() as u32,
        ..Importance::default()
    };
    for stage in spec.blocks.iter().flat_map(|b| b.stages()) {
        let Some(sums) = sums.get(&stage.slots[0].weight()) else { continue };
        let sums: Vec<f32> = sums.iter().map(|&s| s as f32).collect();
        for slot in &stage.slots {
            importance.entries.insert(slot.weight(), Entry { sums: sums.clone(), counts: counts.clone() });
        }
    }
    Ok(importance)
}

/// The float network's embedding, ready to be read.
fn table(weights: &Weights, backend: &Backend) -> Result<Box<dyn Matrix>, Error> {
    let name = weights.spec().embedding.weight();
    load(weights, backend, &weights.tensor(&name)?, name)
}

fn load(
    weights: &Weights,
    backend: &Backend,
    tensor: &Tensor,
    name: String,
) -> Result<Box<dyn Matrix>, Error> {
    let path = weights.path().to_owned();
    Ok(backend.load(tensor).map_err(|source| kvant_model::Error::Kernel { path, tensor: name, source })?)
}
