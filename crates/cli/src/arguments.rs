//! The definition of the command line for the parser `clap`.

use crate::failure::Failure;
use crate::running_flags::RunningFlags;
use crate::sampling_flags::SamplingFlags;
use crate::serve_flags::{Serve, with_long_flags};
use crate::terminal;
use crate::values::{ACTIVATIONS, KV, POOLING, Seed, one_of, seed, tokens, whole};
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use kvant::kernels::{Arithmetic, KvFormat};
use kvant::model::Pooling;
use kvant::report::parse_size;
use std::ffi::OsString;
use std::path::PathBuf;

/// Makes a neural network small, tells honestly what that cost, and runs it.
#[derive(Parser)]
#[command(name = "kvant", version, after_help = "Example: kvant demo")]
pub struct Arguments {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Command,
}

impl Arguments {
    /// Parses the command line. If the command line is invalid or requests help, prints the error or the help text.
    ///
    /// # Errors
    /// The exit status, after an error or a help text was printed.
    pub fn read() -> Result<Self, u8> {
        Self::try_parse_from(with_long_flags(std::env::args_os())).map_err(|error| {
            let status = u8::try_from(error.exit_code()).unwrap_or(2);
            match error.kind() {
                // clap prints help and version on its own stream and with its own styles.
                ErrorKind::DisplayHelp
                | ErrorKind::DisplayVersion
                | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                    if let Err(failure) = error.print().map_err(Failure::stdout) {
                        return failure.tell();
                    }
                }
                ErrorKind::InvalidUtf8 => terminal::say(format_args!(
                    "not UTF-8: {}; only paths may be other than UTF-8, a text can come from a file",
                    not_utf8().join(", ")
                )),
                _ => {
                    let text = error.render().to_string();
                    terminal::say(text.strip_prefix("error: ").unwrap_or(&text).trim_end());
                }
            }
            status
        })
    }
}

/// Returns the arguments that are not UTF-8, with their positions.
fn not_utf8() -> Vec<String> {
    let arguments = std::env::args_os().enumerate().skip(1);
    let bad = arguments.filter(|(_, argument)| argument.to_str().is_none());
    bad.map(|(place, argument)| format!("argument {place}, `{}`", argument.to_string_lossy())).collect()
}

/// Flags that every command accepts.
#[derive(Args)]
pub struct Common {
    /// Threads (default: physical cores), no more than there are processors for
    #[arg(short, long, global = true, value_parser = clap::value_parser!(u16).range(1..=512), allow_negative_numbers = true)]
    pub threads: Option<u16>,
    /// Instruction set: auto, scalar, avx2, avx-vnni, avx512, amx, neon
    #[arg(long, global = true, default_value = "auto")]
    pub isa: String,
    /// One JSON object on stdout
    #[arg(long, global = true)]
    pub json: bool,
    /// Say more
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// Say less: no progress
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

/// The model, as a positional argument or after `-m`.
#[derive(Args)]
pub struct Model {
    /// A .gguf file, a .safetensors file, a Hugging Face folder, or `demo`
    #[arg(value_name = "MODEL", required_unless_present = "model_flag")]
    model: Option<PathBuf>,
    /// The same, as in llama.cpp
    #[arg(short = 'm', long = "model", value_name = "MODEL", conflicts_with = "model", id = "model_flag")]
    model_flag: Option<PathBuf>,
}

impl Model {
    /// Returns the path that was given in one of the two forms.
    pub fn path(&self) -> PathBuf {
        self.model.clone().or_else(|| self.model_flag.clone()).unwrap_or_default()
    }
}

#[derive(Subcommand)]
pub enum Command {
    /// Make a model small
    #[command(after_help = "Example: kvant quantize model.gguf -o small.gguf --format q4_k_m")]
    Quantize(Quantize),
    /// How much each input column counts: an importance matrix in llama.cpp's file format
    #[command(after_help = "Example: kvant imatrix model.gguf --text calibration.txt -o model.imatrix.gguf")]
    Imatrix(Imatrix),
    /// Measure quality: perplexity, and KL divergence from a reference
    #[command(after_help = "Example: kvant eval small.gguf --text wiki.txt --reference model.gguf")]
    Eval(Eval),
    /// The 16/8/4-bit table of one model
    #[command(after_help = "Example: kvant compare model.gguf --text wiki.txt --csv table.csv")]
    Compare(Compare),
    /// The same for the small model that the program carries
    #[command(after_help = "Example: kvant demo")]
    Demo(Demo),
    /// One answer to a raw prompt
    #[command(after_help = "Example: kvant run model.gguf -p 'Once upon a time' -n 64")]
    Run(Run),
    /// A conversation with the model's own chat template
    #[command(after_help = "Example: kvant chat model.gguf")]
    Chat(Chat),
    /// A server that OpenAI's clients can use
    #[command(after_help = "Example: kvant serve model.gguf --port 8080")]
    Serve(Box<Serve>),
    /// Tokens a second, and how near the machine's own limit that is
    #[command(after_help = "Example: kvant bench model.gguf -p 512 -n 128")]
    Bench(Bench),
    /// This processor: its features and limits, and the kernel that each format uses
    #[command(after_help = "Example: kvant doctor")]
    Doctor,
    /// Another container, the same values
    #[command(after_help = "Example: kvant convert folder/ -o model.gguf")]
    Convert(Convert),
    /// Vectors of texts, one text a line
    #[command(after_help = "Example: kvant embed all-MiniLM-L6-v2 --text sentences.txt -o vectors.npy")]
    Embed(Embed),
    /// All logits of a prompt
    #[command(after_help = "Example: kvant logits model.gguf --tokens 1,2,3 --npy logits.npy")]
    Logits(Logits),
    /// Ids and pieces of a text
    #[command(after_help = "Example: kvant tokenize model.gguf -- 'Hello'")]
    Tokenize(Tokenize),
    /// What a file holds
    #[command(after_help = "Example: kvant inspect model.gguf")]
    Inspect(Inspect),
    /// JSON Schema of a command's --json output
    #[command(after_help = "Example: kvant schema eval")]
    Schema(Schema),
    /// Completions for a shell
    #[command(after_help = "Example: kvant completions bash")]
    Completions(Completions),
    /// The manual page
    #[command(after_help = "Example: kvant man | man -l -")]
    Man,
    /// Commands of the contract that are not built yet, and typing errors.
    #[command(external_subcommand)]
    Unbuilt(Vec<OsString>),
}

impl Command {
    /// Returns true for a command that checks between its steps if the user wants to stop it.
    pub fn steps(&self) -> bool {
        matches!(
            self,
            Self::Quantize(_)
                | Self::Imatrix(_)
                | Self::Eval(_)
                | Self::Compare(_)
                | Self::Demo(_)
                | Self::Run(_)
                | Self::Chat(_)
                | Self::Serve(_)
                | Self::Bench(_)
                | Self::Convert(_)
                | Self::Embed(_)
        )
    }
}

/// The file that a command writes.
#[derive(Args)]
pub struct OutputFlags {
    /// Output file (GGUF)
    #[arg(short, long)]
    pub output: PathBuf,
    /// Replace an existing output
    #[arg(long)]
    pub force: bool,
}

#[derive(Args)]
pub struct Quantize {
    #[command(flatten)]
    pub model: Model,
    #[command(flatten)]
    pub file: OutputFlags,
    /// File type, for example q4_k_m, q8_0, f16
    #[arg(long, default_value = "q4_k_m")]
    pub format: String,
    /// Instead of a file type: the best formats for a file of at most this size (for example 900MB)
    #[arg(long, value_name = "SIZE", value_parser = parse_size, conflicts_with_all = ["format", "pure", "bpw"], allow_negative_numbers = true)]
    pub bytes: Option<u64>,
    /// Instead of a file type: the best formats for so many bits a weight
    #[arg(long, value_name = "X", conflicts_with_all = ["format", "pure"], allow_negative_numbers = true)]
    pub bpw: Option<f64>,
    /// Method: rtn (upstream's rounding), imatrix, gptq, descent, corrected, coupled, auto (default: auto; with --imatrix,
    /// imatrix; rtn where there is nothing to calibrate)
    #[arg(long)]
    pub method: Option<String>,
    /// Calibration text: files and the word `builtin`, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "builtin")]
    pub calib: Vec<PathBuf>,
    /// At most so many tokens of it (default: 32768; 49152 of the built-in text alone, which is of many kinds)
    #[arg(long, value_parser = whole, allow_negative_numbers = true)]
    pub calib_tokens: Option<usize>,
    /// Tokens that the model writes itself to be calibrated on, beside the text (default: half as many as of text, at
    /// most 16384; none for a model that does not fit in memory, which would be read from the disk for every token)
    #[arg(long, value_name = "N", value_parser = whole, allow_negative_numbers = true)]
    pub own_tokens: Option<usize>,
    /// Importance matrix (llama.cpp's file, either kind) for the method imatrix, instead of calibration text
    #[arg(long, value_name = "FILE")]
    pub imatrix: Option<PathBuf>,
    /// Added to the diagonal of what columns have in common, as a share of its mean
    #[arg(long, allow_negative_numbers = true)]
    pub damping: Option<f32>,
    /// The same for the correction of earlier losses: the larger, the less is corrected
    #[arg(long, allow_negative_numbers = true)]
    pub correction_damping: Option<f32>,
    /// Where unfinished work is kept (default: OUT.work)
    #[arg(long)]
    pub work: Option<PathBuf>,
    /// Most memory to take: kept, or refused before work with the figure needed (for example 6GiB)
    #[arg(long, value_name = "SIZE", value_parser = parse_size, allow_negative_numbers = true)]
    pub memory: Option<u64>,
    /// Start over instead of going on with unfinished work
    #[arg(long)]
    pub fresh: bool,
    /// Format of tensors whose GGUF name matches: REGEX=FORMAT
    #[arg(long = "set", value_name = "PATTERN=FORMAT")]
    pub overrides: Vec<String>,
    /// Seed of noise, of the model's own text and of the labels of its gradients; -1 draws one
    #[arg(long, default_value = "0", value_parser = seed, allow_negative_numbers = true)]
    pub seed: Seed,
    /// One format for every tensor
    #[arg(long)]
    pub pure: bool,
    /// Take an input that is already quantized
    #[arg(long)]
    pub allow_requantize: bool,
    /// Say what would be done
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Args)]
pub struct Imatrix {
    #[command(flatten)]
    pub model: Model,
    /// Text: files and the word `builtin`, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "builtin")]
    pub text: Vec<PathBuf>,
    /// At most so many contexts of 512 tokens
    #[arg(long, value_parser = whole, allow_negative_numbers = true)]
    pub chunks: Option<usize>,
    #[command(flatten)]
    pub file: OutputFlags,
}

#[derive(Args)]
pub struct Eval {
    #[command(flatten)]
    pub model: Model,
    /// Text to measure on
    #[arg(long)]
    pub text: PathBuf,
    /// Model to compare with
    #[arg(long)]
    pub reference: Option<PathBuf>,
    #[command(flatten)]
    pub contexts: ContextFlags,
    /// Activations are rounded to: f32 (not at all; the default), int16, int8-outliers, int8. "As run" is what `run` does
    /// (int8-outliers), or what is given here
    #[arg(long, value_parser = one_of(ACTIVATIONS), hide_possible_values = true)]
    pub activations: Option<Arithmetic>,
    /// Keys and values of earlier tokens are kept in: f32 (the default), f16, q8_0, q4_0. "As run" is what `run` does (f16),
    /// or what is given here
    #[arg(long, value_parser = one_of(KV), hide_possible_values = true)]
    pub kv: Option<KvFormat>,
}

/// Flags that set how a text is cut into contexts.
#[derive(Args)]
pub struct ContextFlags {
    /// Tokens a context
    #[arg(short, long, default_value_t = 512, value_parser = whole, allow_negative_numbers = true)]
    pub ctx: usize,
    /// At most so many contexts
    #[arg(long, value_parser = whole, allow_negative_numbers = true)]
    pub chunks: Option<usize>,
}

/// Flags for an additional output of the table as CSV.
#[derive(Args)]
pub struct CsvFlags {
    /// Write the table as CSV
    #[arg(long)]
    pub csv: Option<PathBuf>,
    /// Replace an existing CSV file
    #[arg(long)]
    pub force: bool,
}

#[derive(Args)]
pub struct Compare {
    #[command(flatten)]
    pub model: Model,
    /// File types beside the 16-bit reference
    #[arg(long, value_delimiter = ',', default_value = "f16,q8_0,q4_k_m,q4_0")]
    pub formats: Vec<String>,
    /// Methods, a row of each file type for each: rtn, imatrix, gptq, descent, corrected, coupled, auto
    #[arg(long, value_delimiter = ',', default_value = "rtn")]
    pub methods: Vec<String>,
    /// Text to measure on (the demo model has its own)
    #[arg(long)]
    pub text: Option<PathBuf>,
    #[command(flatten)]
    pub contexts: ContextFlags,
    #[command(flatten)]
    pub csv: CsvFlags,
}

#[derive(Args)]
pub struct Demo {
    #[command(flatten)]
    pub csv: CsvFlags,
}

#[derive(Args)]
pub struct Run {
    #[command(flatten)]
    pub model: Model,
    /// The prompt, raw text
    #[arg(short, long)]
    pub prompt: String,
    /// At most so many tokens; -1: until the end of the context
    #[arg(short = 'n', long = "n-predict", default_value = "128", value_parser = tokens, allow_negative_numbers = true)]
    pub count: usize,
    /// Stop before this text
    #[arg(long)]
    pub stop: Vec<String>,
    /// Tokens of context
    #[arg(short, long, value_parser = whole, allow_negative_numbers = true)]
    pub ctx: Option<usize>,
    #[command(flatten)]
    pub running: RunningFlags,
    // These flags are last, because their help heading applies to all flags after them.
    #[command(flatten)]
    pub sampling: SamplingFlags,
}

#[derive(Args)]
pub struct Chat {
    #[command(flatten)]
    pub model: Model,
    /// System message
    #[arg(short, long)]
    pub system: Option<String>,
    /// At most so many tokens an answer; -1: until the end of the context
    #[arg(short = 'n', long = "n-predict", default_value = "512", value_parser = tokens, allow_negative_numbers = true)]
    pub count: usize,
    /// Tokens of context
    #[arg(short, long, value_parser = whole, allow_negative_numbers = true)]
    pub ctx: Option<usize>,
    #[command(flatten)]
    pub running: RunningFlags,
    // These flags are last, because their help heading applies to all flags after them.
    #[command(flatten)]
    pub sampling: SamplingFlags,
}

#[derive(Args)]
pub struct Bench {
    #[command(flatten)]
    pub model: Model,
    /// Tokens of the prompt; 0 leaves it out
    #[arg(short, long = "n-prompt", value_name = "N", default_value_t = 512, value_parser = whole, allow_negative_numbers = true)]
    pub prompt: usize,
    /// Tokens of the answer; 0 leaves it out
    #[arg(short = 'n', long = "n-gen", value_name = "N", default_value_t = 128, value_parser = whole, allow_negative_numbers = true)]
    pub count: usize,
    /// Tokens before the answer; several numbers make several tests
    #[arg(short, long = "n-depth", value_name = "N", default_value = "0", value_delimiter = ',', value_parser = whole, allow_negative_numbers = true)]
    pub depth: Vec<usize>,
    /// Rounds of every test; they take turns
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..), allow_negative_numbers = true)]
    pub repetitions: u16,
    /// Sequences that are answered together; several numbers make several tests
    #[arg(long, value_name = "N", default_value = "1", value_delimiter = ',', value_parser = whole, allow_negative_numbers = true)]
    pub parallel: Vec<usize>,
    #[command(flatten)]
    pub running: RunningFlags,
}

#[derive(Args)]
pub struct Convert {
    /// Input
    pub input: PathBuf,
    #[command(flatten)]
    pub file: OutputFlags,
    /// Container
    #[arg(long, value_parser = ["gguf", "safetensors", "ct", "gptq", "awq"])]
    pub to: Option<String>,
    /// Say what would be done
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Args)]
pub struct Embed {
    #[command(flatten)]
    pub model: Model,
    /// A file with one text a line, `-` for the standard input
    #[arg(long, default_value = "-")]
    pub text: PathBuf,
    /// Write the vectors as a NumPy file instead of JSON lines
    #[arg(short = 'o', long)]
    pub npy: Option<PathBuf>,
    /// Replace an existing NumPy file
    #[arg(long)]
    pub force: bool,
    /// The vector of a text: mean of its tokens, cls (the first token), last token (default: the model's own)
    #[arg(long, value_parser = one_of(POOLING), hide_possible_values = true)]
    pub pooling: Option<Pooling>,
    /// Activations are rounded to: f32 (not at all), int16, int8-outliers, int8 (default: as `run` does)
    #[arg(long, value_parser = one_of(ACTIVATIONS), hide_possible_values = true)]
    pub activations: Option<Arithmetic>,
}

#[derive(Args)]
#[command(group = clap::ArgGroup::new("input").required(true).args(["tokens", "prompt"]))]
pub struct Logits {
    #[command(flatten)]
    pub model: Model,
    /// Token ids
    #[arg(long, value_delimiter = ',', allow_negative_numbers = true)]
    pub tokens: Vec<u32>,
    /// Text, tokenized as `run` does
    #[arg(long)]
    pub prompt: Option<String>,
    /// Write all logits as a NumPy file
    #[arg(long)]
    pub npy: Option<PathBuf>,
    /// Replace an existing NumPy file
    #[arg(long)]
    pub force: bool,
    /// One token after another through the cache, as decoding does
    #[arg(long)]
    pub stepwise: bool,
    /// Activations are rounded to: f32 (not at all), int16, int8-outliers (as `run` does), int8
    #[arg(long, value_parser = one_of(ACTIVATIONS), default_value = "f32", hide_possible_values = true)]
    pub activations: Arithmetic,
    /// Keys and values of earlier tokens are kept in: f32, f16, q8_0, q4_0
    #[arg(long, value_parser = one_of(KV), default_value = "f32", hide_possible_values = true)]
    pub kv: KvFormat,
}

#[derive(Args)]
pub struct Tokenize {
    #[command(flatten)]
    pub model: Model,
    /// The text
    #[arg(required_unless_present = "file", allow_hyphen_values = false)]
    pub text: Option<String>,
    /// A file's text instead
    #[arg(long, conflicts_with = "text")]
    pub file: Option<PathBuf>,
    /// Add no BOS or EOS and parse no control token
    #[arg(long)]
    pub no_special: bool,
}

#[derive(Args)]
pub struct Inspect {
    /// A .gguf file, a .safetensors file, a Hugging Face folder, or `demo`
    pub file: PathBuf,
}

#[derive(Args)]
pub struct Schema {
    /// The command
    pub command: String,
}

#[derive(Args)]
pub struct Completions {
    /// The shell
    pub shell: clap_complete::Shell,
}
