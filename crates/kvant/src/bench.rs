//! The job `bench`: tokens a second, and how near the machine's own limit that is.

use crate::Error;
use kvant_eval::{BenchRow, Progress, Test, bench};
use kvant_model::Transformer;
use kvant_report::{Column, size};
use serde::Serialize;

/// Measures the speed of a network.
pub struct Bench<'a> {
    /// The network, prepared as it shall run.
    pub network: &'a Transformer,
    /// Tokens of the prompt; 0 leaves it out.
    pub prompt: usize,
    /// Tokens of the answer; 0 leaves it out.
    pub answer: usize,
    /// Tokens before the answer, each a test.
    pub depths: Vec<usize>,
    /// Sequences that are answered together, each a test.
    pub parallel: Vec<usize>,
    /// Rounds of every test; they take turns.
    pub rounds: usize,
}

/// Speeds.
#[derive(Serialize, schemars::JsonSchema)]
pub struct Benched {
    /// A row for each test.
    pub rows: Vec<BenchRow>,
}

impl<'a> Bench<'a> {
    /// A prompt of 512 tokens and an answer of 128, five rounds of each.
    pub fn new(network: &'a Transformer) -> Self {
        Self { network, prompt: 512, answer: 128, depths: vec![0], parallel: vec![1], rounds: 5 }
    }

    /// Does it.
    ///
    /// # Errors
    /// No test, or one that the network's context does not hold.
    pub fn run(&self, progress: &dyn Progress) -> Result<Benched, Error> {
        let tests = self.tests()?;
        progress.begin("bench");
        Ok(Benched { rows: bench(self.network, &tests, self.rounds, progress)? })
    }

    fn tests(&self) -> Result<Vec<Test>, Error> {
        let mut tests = Vec::new();
        if self.prompt > 0 {
            tests.push(Test::Prompt { tokens: self.prompt });
        }
        if self.answer > 0 {
            for &depth in &self.depths {
                for &sequences in &self.parallel {
                    if sequences == 0 {
                        return Err(Error::option("--parallel", "must be at least 1"));
                    }
                    tests.push(Test::Answer { tokens: self.answer, depth, sequences });
                }
            }
        }
        if tests.is_empty() {
            return Err(Error::option("-p 0 -n 0", "there is nothing to run"));
        }
        let longest = self.network.spec().context;
        match tests.iter().find(|test| test.positions() > longest) {
            Some(test) => {
                let reason = format!("the model was made for at most {longest} tokens");
                Err(Error::option(test.name(), reason))
            }
            None => Ok(tests),
        }
    }
}

impl Benched {
    /// The table for a terminal.
    pub fn table(&self) -> String {
        let mut columns: Vec<Column<BenchRow>> = vec![
            Column::text("test", |row| row.test.clone()),
            Column::number("tok/s", |row| format!("{:.1}", row.tps_median)),
            Column::number("slowest", |row| format!("{:.1}", row.tps_min)),
            Column::number("fastest", |row| format!("{:.1}", row.tps_max)),
            Column::number("weights/token", |row| size(row.weight_bytes_per_token as u64)),
            Column::number("of bandwidth", |row| format!("{:.0} %", row.bandwidth_fraction * 100.0)),
            Column::number("of peak", |row| format!("{:.0} %", row.ops_fraction * 100.0)),
        ];
        if self.rows.iter().any(|row| row.joules_per_token.is_some()) {
            columns.push(Column::number("J/token", |row| {
                row.joules_per_token.map_or(String::new(), |joules| format!("{joules:.3}"))
            }));
        }
        kvant_report::table(&self.rows, &columns)
    }
}
