//! `kvant bench`: tokens a second, and how near the machine's own limit that is.

use crate::arguments::{Bench, Common};
use crate::failure::Failure;
use crate::output::Bar;
use crate::{open, output};
use comfy_table::{CellAlignment, Table, presets};
use kvant::eval::{BenchRow, Test, bench};
use kvant::model::Transformer;
use serde::Serialize;
use std::process::ExitCode;

/// What `--json` prints.
#[derive(Serialize, schemars::JsonSchema)]
pub struct Benched {
    rows: Vec<BenchRow>,
}

/// Runs the command.
pub fn run(common: &Common, arguments: &Bench) -> Result<ExitCode, Failure> {
    let path = arguments.model.path();
    let (_opened, transformer) = open::transformer(common, &path, arguments.activations, arguments.kv)?;
    let tests = tests(arguments, &transformer)?;
    let bar = Bar::new(common, "bench");
    let rounds = usize::from(arguments.repetitions);
    let rows = bench(&transformer, &tests, rounds, &mut |done, all| bar.step(done, all))?;
    if common.json {
        output::json(&Benched { rows })?;
    } else {
        output::line(&table(&rows).to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn tests(arguments: &Bench, transformer: &Transformer) -> Result<Vec<Test>, Failure> {
    let mut tests = Vec::new();
    if arguments.prompt > 0 {
        tests.push(Test::Prompt { tokens: arguments.prompt });
    }
    if arguments.count > 0 {
        for &depth in &arguments.depth {
            for &sequences in &arguments.parallel {
                if sequences == 0 {
                    return Err(Failure::Usage("--parallel must be at least 1".into()));
                }
                tests.push(Test::Answer { tokens: arguments.count, depth, sequences });
            }
        }
    }
    if tests.is_empty() {
        return Err(Failure::Usage("-p 0 and -n 0 leave nothing to run".into()));
    }
    let longest = transformer.spec().context;
    if let Some(test) = tests.iter().find(|test| test.positions() > longest) {
        return Err(Failure::Usage(format!(
            "{}: the model was made for at most {longest} tokens",
            test.name()
        )));
    }
    Ok(tests)
}

fn table(rows: &[BenchRow]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    let energy = rows.iter().any(|row| row.joules_per_token.is_some());
    let mut header = vec!["test", "tok/s", "slowest", "fastest", "weights/token", "of bandwidth", "of peak"];
    if energy {
        header.push("J/token");
    }
    let columns = header.len();
    table.set_header(header);
    for row in rows {
        let mut cells = vec![
            row.test.clone(),
            format!("{:.1}", row.tps_median),
            format!("{:.1}", row.tps_min),
            format!("{:.1}", row.tps_max),
            output::size(row.weight_bytes_per_token as u64),
            format!("{:.0} %", row.bandwidth_fraction * 100.0),
            format!("{:.0} %", row.ops_fraction * 100.0),
        ];
        if energy {
            cells.push(row.joules_per_token.map_or(String::new(), |joules| format!("{joules:.3}")));
        }
        table.add_row(cells);
    }
    for column in table.column_iter_mut().skip(1).take(columns) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
