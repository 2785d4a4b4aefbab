//! The flags of `serve`. Names and variables are those of llama.cpp's server.

use crate::failure::Failure;
use crate::running_flags::RunningFlags;
use crate::sampling_flags::SamplingFlags;
use crate::values::{POOLING, one_of, tokens, whole};
use clap::{Args, ValueEnum};
use kvant::model::Pooling;
use kvant::report::parse_size;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub struct Serve {
    /// Models: .gguf files, Hugging Face folders, or `demo`. NAME=MODEL names one. The first is loaded at the start, the
    /// others when a request needs them
    #[arg(value_name = "MODEL")]
    models: Vec<PathBuf>,
    /// The same, as in llama.cpp; without any, the variable LLAMA_ARG_MODEL names the model
    #[arg(short = 'm', long = "model", value_name = "MODEL", id = "model_flag")]
    model_flag: Vec<PathBuf>,
    /// Address to listen on; 0.0.0.0 is every network of this machine
    #[arg(long, default_value = "127.0.0.1", env = "LLAMA_ARG_HOST")]
    pub host: String,
    /// Port; 0 takes a free one
    #[arg(long, default_value_t = 8080, env = "LLAMA_ARG_PORT", allow_negative_numbers = true)]
    pub port: u16,
    /// Clients must send this key; several are separated by commas
    #[arg(long, value_delimiter = ',', env = "LLAMA_API_KEY", hide_env_values = true)]
    pub api_key: Vec<String>,
    /// A file with a key on each line
    #[arg(long, value_name = "FILE", env = "LLAMA_ARG_API_KEY_FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Name of the only model in answers (default: the name of its file)
    #[arg(short, long, env = "LLAMA_ARG_ALIAS")]
    alias: Option<String>,
    /// Tokens of a request, prompt and answer together; 0 is the model's whole context (default: at most 4096)
    #[arg(short, long, visible_alias = "ctx-size", env = "LLAMA_ARG_CTX_SIZE", value_parser = whole, allow_negative_numbers = true)]
    pub ctx: Option<usize>,
    /// At most so many tokens an answer, if the request gives no limit; -1: until the end of the context
    #[arg(short = 'n', long = "n-predict", visible_alias = "predict", default_value = "-1", env = "LLAMA_ARG_N_PREDICT", value_parser = tokens, allow_negative_numbers = true)]
    pub count: usize,
    /// Requests that run at the same time
    #[arg(long, default_value_t = 8, env = "LLAMA_ARG_N_PARALLEL", value_parser = clap::value_parser!(u16).range(1..=1024), allow_negative_numbers = true)]
    pub parallel: u16,
    /// Requests that wait; more are refused with status 429
    #[arg(long, default_value_t = 256, value_parser = whole, allow_negative_numbers = true)]
    pub queue: usize,
    /// Memory for the states of all requests and of earlier conversations of a model (default: room for --parallel
    /// requests of --ctx tokens, at most half of this machine's memory)
    #[arg(long, value_name = "SIZE", value_parser = parse_size, allow_negative_numbers = true)]
    pub memory: Option<u64>,
    /// Memory of all loaded models together, weights and states; the model that was used longest ago leaves (default: nine
    /// tenths of this machine's memory)
    #[arg(long, value_name = "SIZE", value_parser = parse_size, allow_negative_numbers = true)]
    pub models_memory: Option<u64>,
    /// A request that takes longer ends with an error, in seconds (default: no limit)
    #[arg(long, value_name = "SECONDS", env = "LLAMA_ARG_TIMEOUT", value_parser = clap::value_parser!(u32).range(1..), allow_negative_numbers = true)]
    pub timeout: Option<u32>,
    /// Chat template in Jinja, or `chatml` (default: the model's own)
    #[arg(long, value_name = "TEMPLATE", env = "LLAMA_ARG_CHAT_TEMPLATE")]
    chat_template: Option<String>,
    /// File with a chat template in Jinja
    #[arg(long, value_name = "FILE", env = "LLAMA_ARG_CHAT_TEMPLATE_FILE", conflicts_with = "chat_template")]
    chat_template_file: Option<PathBuf>,
    /// Variables of the chat template, a JSON object; a request's own go first
    #[arg(long, value_name = "JSON", env = "LLAMA_CHAT_TEMPLATE_KWARGS")]
    chat_template_kwargs: Option<String>,
    /// Reasoning before the answer, if the template can turn it on and off: auto, on, off
    #[arg(
        long,
        value_name = "WHEN",
        env = "LLAMA_ARG_REASONING",
        default_value = "auto",
        hide_possible_values = true
    )]
    reasoning: Reasoning,
    /// Pages of these origins may use the server, separated by commas; `localhost` is every port of this machine, * is
    /// every page (default: none but its own page)
    #[arg(long, value_name = "ORIGINS", value_delimiter = ',', env = "LLAMA_ARG_CORS_ORIGINS")]
    pub cors_origins: Vec<String>,
    /// Language models give vectors of texts, and write no text
    #[arg(long, visible_alias = "embeddings", env = "LLAMA_ARG_EMBEDDINGS")]
    pub embedding: bool,
    /// Pooling of vectors: mean, cls, last (default: the model's own)
    #[arg(long, env = "LLAMA_ARG_POOLING", value_parser = one_of(POOLING), hide_possible_values = true)]
    pub pooling: Option<Pooling>,
    /// No page at /
    #[arg(long, visible_alias = "no-webui", env = "LLAMA_ARG_NO_UI")]
    pub no_ui: bool,
    /// No list of running requests at /slots
    #[arg(long)]
    pub no_slots: bool,
    /// No metrics at /metrics
    #[arg(long)]
    pub no_metrics: bool,
    /// Messages on stderr: errors, requests (errors and one line for each request), json (the same in JSON), off
    #[arg(long, value_name = "WHAT", default_value = "errors", hide_possible_values = true)]
    pub log: Log,
    #[command(flatten)]
    without_effect: WithoutEffect,
    #[command(flatten)]
    pub running: RunningFlags,
    // These flags are last, because their help heading applies to all flags after them.
    #[command(flatten)]
    pub sampling: SamplingFlags,
}

/// When a model reasons before its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Reasoning {
    Auto,
    On,
    Off,
}

/// The messages on stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Log {
    Off,
    Errors,
    Requests,
    Json,
}

/// Flags of llama.cpp's server that change nothing here, so that its scripts work.
#[derive(Args)]
struct WithoutEffect {
    #[arg(long, hide = true, value_name = "N", allow_negative_numbers = true, visible_aliases = ["gpu-layers"])]
    n_gpu_layers: Option<String>,
    #[arg(long, hide = true, value_name = "N")]
    batch_size: Option<String>,
    #[arg(long, hide = true, value_name = "N")]
    ubatch_size: Option<String>,
    #[arg(long, hide = true, value_name = "WHEN", num_args = 0..=1, require_equals = true)]
    flash_attn: Option<Option<String>>,
    #[arg(long, hide = true, value_name = "N")]
    threads_batch: Option<String>,
    #[arg(long, hide = true, value_name = "N", allow_negative_numbers = true)]
    threads_http: Option<String>,
    #[arg(long, hide = true, value_name = "N")]
    cache_reuse: Option<String>,
    #[arg(long, hide = true, value_name = "MIB", allow_negative_numbers = true)]
    cache_ram: Option<String>,
    #[arg(long, hide = true)]
    cont_batching: bool,
    #[arg(long, hide = true)]
    kv_unified: bool,
    #[arg(long, hide = true)]
    swa_full: bool,
    #[arg(long, hide = true)]
    mlock: bool,
    #[arg(long, hide = true)]
    no_mmap: bool,
    #[arg(long, hide = true)]
    no_warmup: bool,
    #[arg(long, hide = true)]
    no_context_shift: bool,
    #[arg(long, hide = true)]
    jinja: bool,
    #[arg(long, hide = true)]
    metrics: bool,
    #[arg(long, hide = true)]
    props: bool,
    #[arg(long, hide = true)]
    slots: bool,
    #[arg(long, hide = true, visible_aliases = ["rerank"])]
    reranking: bool,
}

impl WithoutEffect {
    /// The flags that were given and that a user may expect an effect from.
    fn given(&self) -> Vec<&'static str> {
        let gpu = self.n_gpu_layers.as_deref().is_some_and(|count| count != "0");
        let flags = [
            (gpu, "--n-gpu-layers"),
            (self.batch_size.is_some(), "--batch-size"),
            (self.ubatch_size.is_some(), "--ubatch-size"),
            (self.threads_batch.is_some(), "--threads-batch"),
            (self.threads_http.is_some(), "--threads-http"),
            (self.cache_reuse.is_some(), "--cache-reuse"),
            (self.cache_ram.is_some(), "--cache-ram"),
            (self.swa_full, "--swa-full"),
            (self.mlock, "--mlock"),
            (self.no_mmap, "--no-mmap"),
        ];
        flags.into_iter().filter(|(given, _)| *given).map(|(_, name)| name).collect()
    }
}

/// Flags of llama.cpp's server with one dash and several letters, and their long forms.
const SHORT: &[(&str, &str)] = &[
    ("-np", "--parallel"),
    ("-to", "--timeout"),
    ("-ngl", "--n-gpu-layers"),
    ("-ub", "--ubatch-size"),
    ("-b", "--batch-size"),
    ("-cb", "--cont-batching"),
    ("-tb", "--threads-batch"),
    ("-kvu", "--kv-unified"),
    ("-cram", "--cache-ram"),
];

/// Replaces the short flags of llama.cpp's server, which `clap` cannot express. Other commands keep their arguments.
pub fn with_long_flags(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let arguments: Vec<OsString> = arguments.collect();
    let Some(command) = place_of_command(&arguments).filter(|place| arguments[*place] == "serve") else {
        return arguments;
    };
    let mut long: Vec<OsString> = arguments[..=command].to_vec();
    let mut rest = arguments[command + 1..].iter().peekable();
    while let Some(argument) = rest.next() {
        let found = SHORT.iter().find(|(short, _)| argument == short).map(|(_, long)| *long);
        match found {
            // Its value can be missing, so it must not take the next argument.
            _ if argument == "-fa" || argument == "--flash-attn" => {
                let value = rest.next_if(|value| ["on", "off", "auto"].iter().any(|known| value == known));
                let value = value.and_then(|value| value.to_str()).unwrap_or("on");
                long.push(format!("--flash-attn={value}").into());
            }
            Some(found) => long.push(found.into()),
            None => long.push(argument.clone()),
        }
    }
    long
}

/// The place of the command: the first argument after flags of all commands.
fn place_of_command(arguments: &[OsString]) -> Option<usize> {
    let mut place = 1;
    while let Some(argument) = arguments.get(place) {
        let has_value = ["-t", "--threads", "--isa"].iter().any(|flag| argument == flag);
        match argument.to_str() {
            Some(text) if text.starts_with('-') => place += if has_value { 2 } else { 1 },
            _ => return Some(place),
        }
    }
    None
}

/// A path with the name of its model.
pub struct NamedPath {
    pub name: String,
    pub path: PathBuf,
}

impl Serve {
    /// The models with their names.
    ///
    /// # Errors
    /// No model; `--alias` with several models.
    pub fn models(&self) -> Result<Vec<NamedPath>, Failure> {
        let mut paths: Vec<PathBuf> = self.models.iter().chain(&self.model_flag).cloned().collect();
        if paths.is_empty() {
            let given = std::env::var_os("LLAMA_ARG_MODEL").filter(|path| !path.is_empty());
            paths.push(given.ok_or_else(|| Failure::Usage("a MODEL is necessary".to_owned()))?.into());
        }
        let mut named: Vec<NamedPath> = paths.iter().map(|path| named(path)).collect();
        if let Some(alias) = &self.alias {
            match &mut named[..] {
                [one] => one.name.clone_from(alias),
                _ => {
                    let what = "--alias: there are several models; NAME=MODEL names one";
                    return Err(Failure::Usage(what.to_owned()));
                }
            }
        }
        Ok(named)
    }

    /// The chat template of the flags.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn chat_template(&self) -> Result<Option<String>, Failure> {
        Ok(match (&self.chat_template, &self.chat_template_file) {
            (Some(name), _) if name == "chatml" => Some(kvant_serve::CHATML.to_owned()),
            (Some(source), _) => Some(source.clone()),
            (None, Some(path)) => Some(kvant::read_text(path)?),
            (None, None) => None,
        })
    }

    /// The variables of the chat template.
    ///
    /// # Errors
    /// A text that is no JSON object.
    pub fn template_variables(&self) -> Result<serde_json::Map<String, serde_json::Value>, Failure> {
        let mut variables = match &self.chat_template_kwargs {
            None => serde_json::Map::new(),
            Some(text) => serde_json::from_str(text).map_err(|error| {
                Failure::Usage(format!("--chat-template-kwargs: no JSON object: {error}"))
            })?,
        };
        if self.reasoning != Reasoning::Auto {
            variables.insert("enable_thinking".to_owned(), (self.reasoning == Reasoning::On).into());
        }
        Ok(variables)
    }

    /// The flags that were given and that have no effect.
    pub fn without_effect(&self) -> Vec<&'static str> {
        self.without_effect.given()
    }
}

/// Divides `NAME=MODEL`. A path that exists is no pair, even if it has an equals sign. A name with a slash needs a model that
/// exists, because the argument may be a wrong path.
fn named(argument: &Path) -> NamedPath {
    let text = argument.to_string_lossy();
    match text.split_once('=') {
        Some((name, path))
            if !name.is_empty()
                && !argument.exists()
                && (!name.contains('/') || Path::new(path).exists()) =>
        {
            NamedPath { name: name.to_owned(), path: path.into() }
        }
        _ => {
            let stem = argument.file_stem().map(|stem| stem.to_string_lossy().into_owned());
            NamedPath { name: stem.unwrap_or_else(|| "model".to_owned()), path: argument.to_owned() }
        }
    }
}
