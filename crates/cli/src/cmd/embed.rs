//! `kvant embed`: computes the vectors of texts.

use crate::arguments::{Common, Embed};
use crate::failure::Failure;
use crate::output::Bar;
use crate::{machine, output};
use kvant::io::OutputFile;
use kvant::{Embedded, Model, lines, read_input};
use std::process::ExitCode;

/// Runs the command.
pub fn run(common: &Common, arguments: &Embed) -> Result<ExitCode, Failure> {
    let path = arguments.model.path();
    let file = arguments.npy.as_deref();
    OutputFile::check_all(file.as_slice(), &[&path, &arguments.text], arguments.force)?;
    let model = Model::open(&path)?;
    let text = read_input(&arguments.text)?;
    let texts = lines(&text);
    let job = kvant::Embed {
        pooling: arguments.pooling,
        arithmetic: arguments.activations,
        ..kvant::Embed::new(&model, &texts)
    };
    let embedded = job.run(&machine::backend(common)?, &Bar::new(common))?;
    let Some(file) = file else { return output::show(common, &embedded, print) };
    let printed = output::show(common, &embedded, |embedded| {
        let (count, length) = (embedded.vectors.len(), embedded.dimension);
        output::line(&format!("{}: {count} vectors of {length}, {} texts cut", file.display(), embedded.cut))
    });
    embedded.write_npy(file, arguments.force)?;
    printed
}

/// Prints one JSON object for each text, one a line.
fn print(embedded: &Embedded) -> Result<(), Failure> {
    let rows = embedded.vectors.iter().zip(&embedded.tokens);
    rows.into_iter().try_for_each(|(vector, tokens)| {
        let text = serde_json::to_string(vector).map_err(|e| Failure::Fault(e.to_string()))?;
        output::line(&format!("{{\"tokens\":{tokens},\"vector\":{text}}}"))
    })
}
