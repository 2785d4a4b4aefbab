//! `kvant tokenize`: ids and pieces of a text.

use crate::arguments::{Common, Tokenize};
use crate::failure::Failure;
use crate::{open, output};
use kvant::model::Special;
use serde::Serialize;
use std::process::ExitCode;

/// What `--json` prints.
#[derive(Serialize, schemars::JsonSchema)]
pub struct Tokenized {
    /// Token ids.
    ids: Vec<u32>,
    /// Their texts, control tokens spelled out.
    pieces: Vec<String>,
}

/// Runs the command.
pub fn run(common: &Common, arguments: &Tokenize) -> Result<ExitCode, Failure> {
    let path = arguments.model.path();
    let (checkpoint, _demo) = open::checkpoint(&path)?;
    let tokenizer = open::tokenizer(checkpoint.meta(), &path)?;
    let text = match (&arguments.text, &arguments.file) {
        (Some(text), _) => text.clone(),
        (None, Some(file)) => open::text(file)?,
        (None, None) => return Err(Failure::Usage("a text or --file is needed".into())),
    };
    let special = Special { add: !arguments.no_special, parse: !arguments.no_special };
    let ids = tokenizer.encode(&text, special)?;
    let pieces = ids.iter().map(|&id| tokenizer.piece(id)).collect();
    let result = Tokenized { ids, pieces };
    if common.json {
        output::json(&result)?;
    } else {
        for (id, piece) in result.ids.iter().zip(&result.pieces) {
            output::line(&format!("{id:>8}  {piece:?}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
