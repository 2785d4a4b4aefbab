//! `kvant logits`: all logits of a prompt, for checking against another engine.

use crate::arguments::{Common, Logits};
use crate::failure::Failure;
use crate::{open, output};
use kvant::io::OutputFile;
use kvant::model::{Special, Want};
use serde::Serialize;
use std::path::Path;
use std::process::ExitCode;

/// What `--json` prints.
#[derive(Serialize, schemars::JsonSchema)]
pub struct LogitsResult {
    /// Token ids that were run.
    tokens: Vec<u32>,
    /// Positions, vocabulary.
    shape: [usize; 2],
    /// The likeliest tokens after the last position.
    top: Vec<Top>,
}

/// One likely token.
#[derive(Serialize, schemars::JsonSchema)]
struct Top {
    id: u32,
    logit: f32,
}

/// Runs the command.
pub fn run(common: &Common, arguments: &Logits) -> Result<ExitCode, Failure> {
    let path = arguments.model.path();
    let file = arguments.npy.as_deref();
    output::check(file.as_slice(), &[&path], arguments.force)?;
    let (opened, transformer) = open::transformer(common, &path, Some(arguments.activations), arguments.kv)?;
    let tokens = match &arguments.prompt {
        None => arguments.tokens.clone(),
        Some(prompt) => {
            let tokenizer = open::tokenizer(opened.weights.checkpoint().meta(), &path)?;
            tokenizer.encode(prompt, Special { add: true, parse: true })?
        }
    };
    if tokens.is_empty() {
        return Err(Failure::Usage("no tokens to run".into()));
    }
    let context = transformer.spec().context;
    if tokens.len() > context {
        return Err(Failure::Fault(format!(
            "{} tokens don't fit the model's context of {context}",
            tokens.len()
        )));
    }
    let mut sequence = transformer.sequence(tokens.len());
    let mut logits = Vec::new();
    if arguments.stepwise {
        for &token in &tokens {
            logits.extend(transformer.next_logits(&mut sequence, &[token])?);
        }
    } else {
        logits = transformer.logits(&transformer.prefill(&mut sequence, &tokens, Want::All)?);
    }
    let vocabulary = transformer.spec().vocabulary;
    let last = &logits[logits.len() - vocabulary..];
    let mut order: Vec<usize> = (0..vocabulary).collect();
    order.sort_by(|&a, &b| last[b].total_cmp(&last[a]).then(a.cmp(&b)));
    let top = order.into_iter().take(10).map(|id| Top { id: id as u32, logit: last[id] }).collect();
    let result = LogitsResult { shape: [tokens.len(), vocabulary], tokens, top };
    // The measurements are printed before a file can fail. A closed pipe does not keep the file from being written.
    let printed = print(common, &result);
    if let Some(file) = file {
        write_npy(file, &logits, result.shape, arguments.force)?;
    }
    printed?;
    Ok(ExitCode::SUCCESS)
}

fn print(common: &Common, result: &LogitsResult) -> Result<(), Failure> {
    if common.json {
        return output::json(result);
    }
    output::line(&format!("{} positions × {} tokens", result.shape[0], result.shape[1]))?;
    result.top.iter().try_for_each(|top| output::line(&format!("{:>8}  {:.6}", top.id, top.logit)))
}

/// Numbers that are turned into bytes at once.
const PIECE: usize = 1 << 16;

/// NumPy's format, version 1.0: `numpy/lib/format.py`.
fn write_npy(path: &Path, values: &[f32], shape: [usize; 2], force: bool) -> Result<(), Failure> {
    let mut header =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", shape[0], shape[1]);
    // Magic, version and length take 10 bytes; the data begin at a multiple of 64.
    let padded = (10 + header.len() + 1).next_multiple_of(64);
    header.push_str(&" ".repeat(padded - 11 - header.len()));
    header.push('\n');
    let mut start = b"\x93NUMPY\x01\x00".to_vec();
    start.extend_from_slice(&(header.len() as u16).to_le_bytes());
    start.extend_from_slice(header.as_bytes());
    let bytes = (start.len() + size_of_val(values)) as u64;
    let mut file = OutputFile::create(path, bytes, force)?;
    file.write(&start)?;
    for piece in values.chunks(PIECE) {
        file.write(&piece.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())?;
    }
    Ok(file.finish()?)
}
