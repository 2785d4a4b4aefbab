//! `cargo xtask answers`: compares greedy answers with rounded activations with those with exact activations.
//!
//! The questions are the lines of `tests/golden/questions.txt`. They are asked in the model's own chat template, as
//! `kvant chat --temp 0` does. If an answer differs, the exact logits before the first different token give the lead of
//! the exact token, in standard deviations of the logits. A lead below [`NEAR_TIE`] is a near tie.

use kvant::kernels::{Arithmetic, Backend, Isa, KvFormat, Precision};
use kvant::model::{ChatTemplate, Message, Tokenizer, Transformer, Weights};
use std::error::Error;
use std::path::{Path, PathBuf};

/// Maximum lead of a near tie: the difference of the two largest logits, in standard deviations of the logits.
const NEAR_TIE: f64 = 0.02;
/// Number of tokens of an answer that are compared.
const TOKENS: usize = 24;

/// The command's arguments.
#[derive(clap::Args)]
pub struct Answers {
    /// GGUF files
    models: Vec<PathBuf>,
}

/// Runs the command. Returns the faults as texts.
pub fn run(root: &Path, arguments: &Answers) -> Vec<String> {
    let questions = match std::fs::read_to_string(root.join("tests/golden/questions.txt")) {
        Ok(questions) => questions,
        Err(error) => return vec![format!("tests/golden/questions.txt: {error}")],
    };
    let questions: Vec<&str> = questions.lines().collect();
    let mut faults = Vec::new();
    for path in &arguments.models {
        match compare(path, &questions) {
            Ok(more) => faults.extend(more),
            Err(error) => faults.push(format!("{}: {error}", path.display())),
        }
    }
    faults
}

fn compare(path: &Path, questions: &[&str]) -> Result<Vec<String>, Box<dyn Error>> {
    let weights = Weights::new(kvant::io::open(path, &kvant::io::Limits::default())?)?;
    let tokenizer = Tokenizer::from_meta(weights.checkpoint().meta())?.ok_or("no tokenizer")?;
    let template = ChatTemplate::of(&tokenizer)?.ok_or("no chat template")?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let load = |arithmetic| {
        let backend = Backend::new(Isa::best(), threads).with(arithmetic);
        Transformer::load(&weights, backend).map(|model| model.with_kv_format(KvFormat::F16))
    };
    let exact = load(Arithmetic::Float)?;
    let mut faults = Vec::new();
    for precision in Precision::ALL {
        let rounded = load(Arithmetic::Integer(precision))?;
        let mut equal = 0;
        let mut ties = 0;
        for question in questions {
            let prompt = template.encode(&tokenizer, &[Message::new("user", *question)])?;
            let (expected, found) =
                (answer(&exact, &tokenizer, &prompt)?, answer(&rounded, &tokenizer, &prompt)?);
            if expected == found {
                equal += 1;
                continue;
            }
            let same = expected.iter().zip(&found).take_while(|(a, b)| a == b).count();
            let lead = lead(&exact, &prompt, &expected[..same])?;
            let is_tie = lead < NEAR_TIE;
            ties += usize::from(is_tie);
            println!(
                "  {precision:?}: {question:?} differs at token {same}, which leads by {lead:.4} deviations"
            );
            if !is_tie && precision != Precision::Int8 {
                faults.push(format!("{}: {precision:?}: {question:?} is no near tie", path.display()));
            }
        }
        println!("{}: {precision:?}: {equal} of {} equal, {ties} near ties", path.display(), questions.len());
        if question_of_france(&rounded, &tokenizer, &template)? {
            println!("  The capital of France is Paris.");
        } else if precision != Precision::Int8 {
            faults.push(format!("{}: {precision:?}: the capital of France is not Paris", path.display()));
        }
    }
    Ok(faults)
}

fn question_of_france(
    model: &Transformer,
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
) -> Result<bool, Box<dyn Error>> {
    let prompt = template.encode(tokenizer, &[Message::new("user", "What is the capital of France?")])?;
    Ok(tokenizer.decode(&answer(model, tokenizer, &prompt)?).contains("Paris"))
}

/// Returns the greedy answer: the most probable token at each step.
fn answer(
    model: &Transformer,
    tokenizer: &Tokenizer,
    prompt: &[u32],
) -> Result<Vec<u32>, kvant::model::Error> {
    let mut sequence = model.sequence(prompt.len() + TOKENS);
    let mut logits = model.next_logits(&mut sequence, prompt)?;
    let mut tokens = Vec::new();
    while tokens.len() < TOKENS {
        let token = order(&logits)[0];
        if tokenizer.end_of_generation().contains(&token) {
            break;
        }
        tokens.push(token);
        logits = model.next_logits(&mut sequence, &[token])?;
    }
    Ok(tokens)
}

/// Returns the difference of the two largest logits after `tokens`, in standard deviations of the logits.
fn lead(model: &Transformer, prompt: &[u32], tokens: &[u32]) -> Result<f64, kvant::model::Error> {
    let all = [prompt, tokens].concat();
    let logits = model.next_logits(&mut model.sequence(all.len()), &all)?;
    let best = order(&logits);
    let mean = logits.iter().map(|x| f64::from(*x)).sum::<f64>() / logits.len() as f64;
    let variance = logits.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / logits.len() as f64;
    Ok(f64::from(logits[best[0] as usize] - logits[best[1] as usize]) / variance.sqrt())
}

/// Returns all tokens, sorted by their logits in descending order.
fn order(logits: &[f32]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    order.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]));
    order
}
