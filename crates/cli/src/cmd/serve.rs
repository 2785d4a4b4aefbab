//! `kvant serve`: answers requests over HTTP until a signal ends it.

use crate::arguments::Common;
use crate::failure::Failure;
use crate::serve_flags::{Log, NamedPath, Serve};
use crate::{machine, output, signals, terminal};
use kvant::Model;
use kvant::eval::machine_memory_bytes;
use kvant_serve::{
    Keys, Loaded, Models, ModelsError, NamedModel, Origins, Server, ServerOptions, ServiceSettings,
};
use serde::Serialize;
use std::io;
use std::process::ExitCode;
use std::time::Duration;
use tracing_subscriber::filter::LevelFilter;

/// The server is ready.
#[derive(Serialize, schemars::JsonSchema)]
pub struct Started {
    /// The address, for example `http://127.0.0.1:8080`.
    address: String,
    /// The name of the model in answers; of several, the one that is loaded first.
    model: String,
    /// The names of all models.
    models: Vec<String>,
    /// Largest number of requests that run at the same time; absent for a model that gives vectors, as what follows.
    parallel: Option<usize>,
    /// Largest number of tokens of a request.
    context_tokens: Option<usize>,
    /// Largest memory of the states.
    state_limit_bytes: Option<usize>,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Fault(error.to_string())
    }
}

/// Runs the command.
pub fn run(common: &Common, arguments: &Serve) -> Result<ExitCode, Failure> {
    kvant::io::return_freed_memory();
    start_log(arguments.log);
    let models = arguments
        .models()?
        .into_iter()
        .map(|NamedPath { name, path }| Ok(NamedModel { name, model: Model::open(&path)? }));
    let models = models.collect::<Result<Vec<NamedModel>, Failure>>()?;
    let keys = keys(arguments)?;
    let unused = arguments.without_effect();
    if !unused.is_empty() && !common.quiet {
        terminal::say(format_args!("no effect here: {}", unused.join(", ")));
    }
    let settings = ServiceSettings {
        context: arguments.ctx,
        answer_tokens: arguments.count,
        parallel: usize::from(arguments.parallel),
        queue: arguments.queue,
        state_bytes: arguments.memory.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
        timeout: arguments.timeout.map(|seconds| Duration::from_secs(u64::from(seconds))),
        run: arguments.running.settings(),
        seed: arguments.sampling.given_seed(),
        chat_template: arguments.chat_template()?,
        verbose: common.verbose,
        embedding: arguments.embedding,
        pooling: arguments.pooling,
        template_variables: arguments.template_variables()?,
    };
    let names: Vec<String> = models.iter().map(|model| model.name.clone()).collect();
    let sampling = arguments.sampling.clone();
    // One model alone has no other limit than the machine's.
    let limit = arguments.models_memory;
    let limit = limit.unwrap_or_else(|| if models.len() > 1 { most_memory() } else { u64::MAX });
    let backend = machine::backend(common)?;
    let models = Models::new(models, backend, settings, Box::new(move |own| sampling.over(own)), limit);
    let models = models.map_err(|error| match error {
        ModelsError::Large { .. } => Failure::Usage(format!("--models-memory: {error}")),
        error => Failure::Usage(error.to_string()),
    })?;
    let (host, port) = (&arguments.host, arguments.port);
    let options = ServerOptions {
        page: !arguments.no_ui,
        slots: !arguments.no_slots,
        metrics: !arguments.no_metrics,
        origins: Origins::new(arguments.cors_origins.clone()),
    };
    let server = Server::bind(host, port, keys, options).map_err(|error| {
        let what = "choose another --host or --port (0 takes a free port)";
        Failure::Fault(format!("{host}:{port}: cannot listen: {error}; {what}"))
    })?;
    let address = format!("http://{}", server.address());
    let ready = |loaded: &Loaded| {
        let engine = match loaded {
            Loaded::Speaker(service) => Some(service.engine().settings()),
            Loaded::Encoder(_) => None,
        };
        let started = Started {
            address,
            model: loaded.name().to_owned(),
            models: names.clone(),
            parallel: engine.map(|settings| settings.parallel),
            context_tokens: engine.map(|settings| settings.context),
            state_limit_bytes: engine.map(|settings| settings.state_bytes),
        };
        output::show(common, &started, |started| {
            let what = match engine {
                None => "vectors of texts".to_owned(),
                Some(settings) => format!(
                    "{} requests at once, {} tokens each, at most {} for their states",
                    settings.parallel,
                    settings.context,
                    kvant::report::size(settings.state_bytes as u64)
                ),
            };
            output::line(&format!("{} serves {}: {what}", started.address, started.models.join(", ")))
        })
        .map(drop)
    };
    server.run(models, ready, || signals::interrupts() > 0)?;
    // SIGTERM is the usual end of a service.
    let interrupted = kvant::io::signals::interrupts() > 0;
    if interrupted { Err(Failure::Interrupted) } else { Ok(ExitCode::SUCCESS) }
}

/// Nine tenths of this machine's memory, in bytes.
fn most_memory() -> u64 {
    machine_memory_bytes().map_or(u64::MAX, |bytes| bytes / 10 * 9)
}

/// Starts the log on stderr.
fn start_log(log: Log) {
    let level = match log {
        Log::Off => return,
        Log::Errors => LevelFilter::WARN,
        Log::Requests | Log::Json => LevelFilter::INFO,
    };
    let subscriber =
        tracing_subscriber::fmt().with_max_level(level).with_writer(io::stderr).with_target(false);
    // The error is that there is a log already.
    let _ = match log {
        Log::Json => subscriber.json().flatten_event(true).try_init(),
        _ => subscriber.with_ansi(false).try_init(),
    };
}

/// Returns the keys of the flags.
fn keys(arguments: &Serve) -> Result<Keys, Failure> {
    let mut keys = arguments.api_key.clone();
    if keys.iter().any(String::is_empty) {
        return Err(Failure::Usage("--api-key: a key must not be empty".to_owned()));
    }
    if let Some(path) = &arguments.api_key_file {
        let text = kvant::read_text(path)?;
        let before = keys.len();
        keys.extend(text.lines().map(str::trim).filter(|key| !key.is_empty()).map(str::to_owned));
        // Without a key, everybody could use the server.
        if keys.len() == before {
            return Err(Failure::Fault(format!("{}: no key in this file", path.display())));
        }
    }
    Ok(Keys::new(keys))
}
