//! `kvant logits`: all logits of a prompt, for checking against another engine.

use crate::arguments::{Common, Logits};
use crate::failure::Failure;
use crate::{open, output};
use kvant::model::Special;
use serde::Serialize;
use std::io::Write;
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
    let mut cache = transformer.cache(tokens.len());
    let mut logits = Vec::new();
    if arguments.stepwise {
        for &token in &tokens {
            logits.extend(transformer.next(&mut cache, &[token])?);
        }
    } else {
        logits = transformer.logits(&transformer.hidden(&mut cache, &tokens)?);
    }
    let vocabulary = transformer.spec().vocabulary;
    if let Some(file) = &arguments.npy {
        write_npy(file, &logits, [tokens.len(), vocabulary])?;
    }
    let last = &logits[logits.len() - vocabulary..];
    let mut order: Vec<usize> = (0..vocabulary).collect();
    order.sort_by(|&a, &b| last[b].total_cmp(&last[a]).then(a.cmp(&b)));
    let top = order.into_iter().take(10).map(|id| Top { id: id as u32, logit: last[id] }).collect();
    let result = LogitsResult { shape: [tokens.len(), vocabulary], tokens, top };
    if common.json {
        output::json(&result)?;
    } else {
        output::line(&format!("{} positions × {vocabulary} tokens", result.shape[0]))?;
        for top in &result.top {
            output::line(&format!("{:>8}  {:.6}", top.id, top.logit))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// NumPy's format, version 1.0: `numpy/lib/format.py`.
fn write_npy(path: &Path, values: &[f32], shape: [usize; 2]) -> Result<(), Failure> {
    let mut header =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", shape[0], shape[1]);
    // Magic, version and length take 10 bytes; the data begin at a multiple of 64.
    let padded = (10 + header.len() + 1).next_multiple_of(64);
    header.push_str(&" ".repeat(padded - 11 - header.len()));
    header.push('\n');
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    let mut out = std::io::BufWriter::new(file.as_file_mut());
    out.write_all(b"\x93NUMPY\x01\x00")?;
    out.write_all(&(header.len() as u16).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    for value in values {
        out.write_all(&value.to_le_bytes())?;
    }
    out.flush()?;
    drop(out);
    file.persist(path).map_err(|e| Failure::Fault(format!("{}: {}", path.display(), e.error)))?;
    Ok(())
}
