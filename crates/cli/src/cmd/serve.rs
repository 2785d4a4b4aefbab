//! `kvant serve`: answers requests over HTTP until a signal ends it.

use crate::arguments::{Common, Serve};
use crate::failure::Failure;
use crate::{machine, output, signals};
use kvant::Model;
use kvant_serve::{EncoderService, Keys, Loaded, Server, Service, ServiceSettings};
use serde::Serialize;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

/// The server is ready.
#[derive(Serialize, schemars::JsonSchema)]
pub struct Started {
    /// The address, for example `http://127.0.0.1:8080`.
    address: String,
    /// The name of the model in answers.
    model: String,
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
    let model = Model::open(&arguments.model.path())?;
    let keys = keys(arguments)?;
    let (host, port) = (&arguments.host, arguments.port);
    let server = Server::bind(host, port, keys).map_err(|error| {
        let what = "choose another --host or --port (0 takes a free port)";
        Failure::Fault(format!("{host}:{port}: cannot listen: {error}; {what}"))
    })?;
    let settings = ServiceSettings {
        alias: arguments.alias.clone(),
        context: arguments.ctx,
        parallel: usize::from(arguments.parallel),
        queue: arguments.queue,
        state_bytes: arguments.memory.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
        timeout: arguments.timeout.map(|seconds| Duration::from_secs(u64::from(seconds))),
        run: arguments.running.settings(),
        seed: arguments.sampling.given_seed(),
    };
    let address = format!("http://{}", server.address());
    let load = || -> Result<Loaded, Failure> {
        let backend = machine::backend(common)?;
        if model.gives_vectors() {
            return Ok(Loaded::Encoder(EncoderService::load(&model, &backend, &settings)?.into()));
        }
        let service =
            Service::load(&model, backend, &settings, |sampling| arguments.sampling.over(sampling))?;
        Ok(Loaded::Speaker(service.into()))
    };
    let ready = |loaded: &Loaded| {
        let engine = match loaded {
            Loaded::Speaker(service) => Some(service.engine().settings()),
            Loaded::Encoder(_) => None,
        };
        let started = Started {
            address,
            model: loaded.name().to_owned(),
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
            output::line(&format!("{} serves {}: {what}", started.address, started.model))
        })
        .map(drop)
    };
    server.run(load, ready, || signals::interrupts() > 0)?;
    // SIGTERM is the usual end of a service.
    let interrupted = kvant::io::signals::interrupts() > 0;
    if interrupted { Err(Failure::Interrupted) } else { Ok(ExitCode::SUCCESS) }
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
