//! `kvant tokenize`: prints the token ids of a text and the text of each token.

use crate::arguments::{Common, Tokenize};
use crate::failure::Failure;
use crate::output;
use kvant::model::Special;
use kvant::{Opened, read_text};
use serde::Serialize;
use std::process::ExitCode;

/// The output of `--json`.
#[derive(Serialize, schemars::JsonSchema)]
pub struct Tokenized {
    /// Token ids.
    ids: Vec<u32>,
    /// The text of each token. The text of a control token is its name.
    pieces: Vec<String>,
}

/// Runs the command.
pub fn run(common: &Common, arguments: &Tokenize) -> Result<ExitCode, Failure> {
    let tokenizer = Opened::new(&arguments.model.path())?.tokenizer()?;
    let text = match (&arguments.text, &arguments.file) {
        (Some(text), _) => text.clone(),
        (None, Some(file)) => read_text(file)?,
        (None, None) => return Err(Failure::Usage("a text or --file is needed".into())),
    };
    let special = Special { add: !arguments.no_special, parse: !arguments.no_special };
    let ids = tokenizer.encode(&text, special).map_err(kvant::Error::from)?;
    let pieces = ids.iter().map(|&id| tokenizer.piece(id)).collect();
    let result = Tokenized { ids, pieces };
    output::show(common, &result, |result| {
        let mut tokens = result.ids.iter().zip(&result.pieces);
        tokens.try_for_each(|(id, piece)| output::line(&format!("{id:>8}  {piece:?}")))
    })
}
