//! What the flags and paths of a command line come to: an opened model, a backend, a tokenizer.

use crate::arguments::{Activations, Common, Kv, SamplingFlags};
use crate::demo_model::{DemoFolder, is_absent, is_demo};
use crate::failure::Failure;
use crate::terminal;
use kvant::CalibrationText;
use kvant::io::{Limits, Meta, signals};
use kvant::kernels::{Arithmetic, Backend, Isa, KvFormat, Precision};
use kvant::model::{Sampling, Tokenizer, TokenizerError, Transformer, Weights};
use kvant::quant::Calibration;
use std::path::{Path, PathBuf};

/// Lets Ctrl-C and wishes of the system be noticed between steps, where a command looks for them (it `steps`); ends
/// other commands at once. A third press ends every command at once.
pub fn catch_signals(steps: bool) {
    let caught = if steps { signals::count() } else { signals::end_at_once() };
    if let Err(error) = caught.and_then(|()| signals::abort_with_status()) {
        terminal::say(format_args!("Ctrl-C will end the program at once: {error}"));
    }
}

/// How often Ctrl-C was pressed; another wish that the program end counts as two presses.
pub fn interrupts() -> usize {
    signals::interrupts() + if signals::ended() { 2 } else { 0 }
}

/// Forgets earlier presses of Ctrl-C; other wishes stay.
pub fn forget_interrupts() {
    signals::forget_interrupts();
}

/// An opened model; the folder keeps the demo model's files alive.
pub struct Opened {
    pub weights: Weights,
    _demo: Option<DemoFolder>,
}

/// Threads to use: as asked, else the physical cores; never more than this process may use, for threads that wait for each
/// other at every product are no use where they have to take turns (eight on two cores: a third of SmolLM2's tokens a second).
pub fn threads(common: &Common) -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    common.threads.map_or_else(num_cpus::get_physical, usize::from).clamp(1, allowed)
}

/// Starts the threads that solvers and hashes share, as many as the backend has. The calling thread is none of them: it may
/// wait for a thread that has work for them.
pub fn start_threads(common: &Common) -> Result<(), Failure> {
    let count = threads(common);
    rayon::ThreadPoolBuilder::new()
        .num_threads(count)
        .build_global()
        .map_err(|error| Failure::Fault(format!("cannot start {count} threads: {error}")))
}

/// The backend that the flags ask for.
pub fn backend(common: &Common) -> Result<Backend, Failure> {
    let (isa, asked) = (Isa::by_name(&common.isa)?, threads(common));
    let backend = Backend::new(isa, asked);
    if backend.threads() < asked && !common.quiet {
        terminal::say(format_args!(
            "note: the system starts no more than {} of {asked} threads; it will be slower",
            backend.threads()
        ));
    }
    Ok(backend)
}

/// Opens a checkpoint: a path, or `demo`.
pub fn checkpoint(path: &Path) -> Result<(Box<dyn kvant::io::Checkpoint>, Option<DemoFolder>), Failure> {
    let text = path.to_string_lossy();
    if text.starts_with("hf:") {
        return Err(Failure::Usage(format!(
            "{text}: models by name are not built yet; give a file or a folder"
        )));
    }
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx")) {
        return Err(Failure::Usage(format!("{text}: ONNX graphs are not built yet")));
    }
    if is_demo(path) {
        let folder = DemoFolder::new()?;
        let checkpoint = kvant::io::open(&folder.path(), &Limits::default())?;
        return Ok((checkpoint, Some(folder)));
    }
    if is_absent(path) {
        return Err(Failure::Fault(format!("{text}: no such file or folder")));
    }
    std::fs::metadata(path).map_err(|e| Failure::io(path, "opening", e))?;
    Ok((kvant::io::open(path, &Limits::default())?, None))
}

/// Opens a language model.
pub fn model(path: &Path) -> Result<Opened, Failure> {
    let (checkpoint, demo) = checkpoint(path)?;
    Ok(Opened { weights: Weights::new(checkpoint)?, _demo: demo })
}

/// A backend that multiplies as fast as this processor can: the plain loops do so on numbers.
pub fn fast(backend: Backend) -> Backend {
    let plain = backend.isa() == Isa::Scalar;
    backend.with(if plain { Arithmetic::Float } else { Arithmetic::Integer(Precision::default()) })
}

/// Opens a language model and prepares it to run.
pub fn transformer(
    common: &Common,
    path: &Path,
    activations: Option<Activations>,
    kv: Kv,
) -> Result<(Opened, Transformer), Failure> {
    let opened = model(path)?;
    let transformer = prepare(common, &opened, activations, kv)?;
    Ok((opened, transformer))
}

/// The same with its tokenizer, made at the same time: either takes a fifth of a second for a small model.
pub fn speaker(
    common: &Common,
    path: &Path,
    activations: Option<Activations>,
    kv: Kv,
) -> Result<(Opened, Transformer, Tokenizer), Failure> {
    let opened = model(path)?;
    let (transformer, tokenizer) = std::thread::scope(|scope| {
        let make = || tokenizer(opened.weights.checkpoint().meta(), path);
        let thread = std::thread::Builder::new().name("kvant-tokenizer".to_owned());
        let made = thread.spawn_scoped(scope, make);
        let transformer = prepare(common, &opened, activations, kv);
        let tokenizer = match made {
            Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            // Without a thread it is made afterwards.
            Err(_) => make(),
        };
        (transformer, tokenizer)
    });
    Ok((opened, transformer?, tokenizer?))
}

/// Prepares an opened model to run.
pub fn prepare(
    common: &Common,
    opened: &Opened,
    activations: Option<Activations>,
    kv: Kv,
) -> Result<Transformer, Failure> {
    let backend = backend(common)?;
    let backend = match activations {
        None => fast(backend),
        Some(Activations::F32) => backend.with(Arithmetic::Float),
        Some(Activations::Int16) => backend.with(Arithmetic::Integer(Precision::Int16)),
        Some(Activations::Int8Outliers) => backend.with(Arithmetic::Integer(Precision::Int8Outliers)),
        Some(Activations::Int8) => backend.with(Arithmetic::Integer(Precision::Int8)),
    };
    Ok(Transformer::load(&opened.weights, backend)?.with_kv_format(match kv {
        Kv::F32 => KvFormat::F32,
        Kv::F16 => KvFormat::F16,
        Kv::Q8_0 => KvFormat::Q8_0,
        Kv::Q4_0 => KvFormat::Q4_0,
    })?)
}

/// The model's tokenizer, or an error that says it has none.
pub fn tokenizer(meta: &Meta, path: &Path) -> Result<Tokenizer, Failure> {
    let missing = || {
        Failure::Fault(format!(
            "{}: the model has no tokenizer; a Hugging Face folder needs tokenizer.json, tokenizer.model, or vocab.json with merges.txt; `logits --tokens` needs none",
            path.display()
        ))
    };
    let place = |error| match error {
        TokenizerError::File { .. } => Failure::from(error),
        error => Failure::Fault(format!("{}: {error}", path.display())),
    };
    Tokenizer::from_meta(meta).map_err(place)?.ok_or_else(missing)
}

/// Reads a text file.
pub fn text(path: &Path) -> Result<String, Failure> {
    let bytes = std::fs::read(path).map_err(|e| Failure::Fault(format!("{}: {e}", path.display())))?;
    String::from_utf8(bytes).map_err(|e| {
        Failure::Fault(format!("{}: not UTF-8 at byte {}", path.display(), e.utf8_error().valid_up_to()))
    })
}

/// Texts to calibrate on: `builtin`, or a file.
pub fn calibration_texts(sources: &[PathBuf]) -> Result<Vec<CalibrationText>, Failure> {
    let read = |source: &PathBuf| {
        if source == Path::new("builtin") {
            return Ok(CalibrationText::BuiltIn);
        }
        Ok(CalibrationText::Text { name: source.display().to_string(), text: text(source)? })
    };
    sources.iter().map(read).collect()
}

/// Their calibration contexts. What there is to know of them goes to stderr.
pub fn calibration(
    texts: &[CalibrationText],
    most_tokens: usize,
    noise: Option<u64>,
    opened: &Opened,
    tokenizer: &Tokenizer,
) -> Result<Calibration, Failure> {
    let kvant::Calibrated { calibration, notes } =
        kvant::calibration(texts, most_tokens, noise, &opened.weights, tokenizer)?;
    notes.iter().for_each(|note| terminal::say(format_args!("note: {note}")));
    Ok(calibration)
}

/// The context to use: the flag, else the smaller of the model's and 4096.
pub fn context(flag: Option<usize>, transformer: &Transformer) -> Result<usize, Failure> {
    let longest = transformer.spec().context;
    match flag {
        None => Ok(longest.min(4096)),
        Some(0) => Err(Failure::Usage("--ctx must be at least 1".into())),
        Some(n) if n > longest => {
            Err(Failure::Usage(format!("--ctx {n}: the model was made for at most {longest} tokens")))
        }
        Some(n) => Ok(n),
    }
}

/// Sampling: kvant's defaults, the model's before them, the flags before both.
pub fn sampling(flags: &SamplingFlags, meta: &Meta) -> Sampling {
    let number = |hugging_face: &str, gguf: &str| match meta {
        Meta::HuggingFace(folder) => {
            folder.generation_config.as_ref().and_then(|g| g.get(hugging_face)).and_then(|v| v.as_f64())
        }
        Meta::Gguf(metadata) => metadata.get(gguf).and_then(|v| v.as_f64().or(v.as_u64().map(|n| n as f64))),
    };
    let default = Sampling::default();
    let pick = |flag: Option<f32>, hugging_face: &str, gguf: &str, default: f32| {
        flag.or_else(|| number(hugging_face, gguf).map(|x| x as f32)).unwrap_or(default)
    };
    Sampling {
        temperature: pick(flags.temp, "temperature", "general.sampling.temp", default.temperature),
        top_k: flags
            .top_k
            .or_else(|| number("top_k", "general.sampling.top_k").map(|x| x.max(0.0) as usize))
            .unwrap_or(default.top_k),
        top_p: pick(flags.top_p, "top_p", "general.sampling.top_p", default.top_p),
        min_p: pick(flags.min_p, "min_p", "general.sampling.min_p", default.min_p),
        repeat_penalty: pick(
            flags.repeat_penalty,
            "repetition_penalty",
            "general.sampling.penalty_repeat",
            default.repeat_penalty,
        ),
        seed: flags.seed.number,
    }
}
