//! The job `bench`: measures tokens per second, absolute and as a share of the machine's limits.

use crate::Error;
use kvant_eval::{BenchRow, Progress, Test, bench};
use kvant_model::Transformer;
use kvant_report::{Column, size};
use serde::Serialize;

/// Measures the speed of a network.
pub struct Bench<'a> {
    /// The network, loaded with the settings to measure.
    pub network: &'a Transformer,
    /// Tokens of the prompt (prefill); 0 skips this test.
    pub prompt: usize,
    /// Tokens of the answer (decode); 0 skips these tests.
    pub answer: usize,
    /// Tokens in the context before the answer; one test for each value.
    pub depths: Vec<usize>,
    /// Sequences that are decoded as one batch; one test for each value.
    pub parallel: Vec<usize>,
    /// Number of rounds. Each round runs every test one time.
    pub rounds: usize,
}

/// The measured speeds.
#[derive(Serialize, schemars::JsonSchema)]
pub struct Benched {
    /// One row for each test.
    pub rows: Vec<BenchRow>,
}

impl<'a> Bench<'a> {
    /// Measures a prompt of 512 tokens and an answer of 128 tokens, in five rounds.
    pub fn new(network: &'a Transformer) -> Self {
        Self { network, prompt: 512, answer: 128, depths: vec![0], parallel: vec![1], rounds: 5 }
    }

    /// Runs all tests.
    ///
    /// # Errors
    /// No tests; a test that is longer than the network's context.
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
    /// Returns the result as a table for a terminal.
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
