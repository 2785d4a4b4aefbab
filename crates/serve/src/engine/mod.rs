//! The engine: runs many requests on one network at the same time.
//!
//! Data flow: [`Engine::submit`] → `scheduler` (a thread of its own) → events ([`Answer::next`]). The thread owns all
//! states. Memory for states has one limit, fixed at the start. `prefix_index` keeps the states of earlier requests for
//! later ones with the same beginning.
//!
//! Deliberately absent: texts of conversations. The engine sees tokens; `openai` and the other interfaces render and
//! encode.

mod metrics;
mod pace;
mod prefix_index;
mod request;
mod scheduler;
mod settings;
mod shared;
mod task;

pub use metrics::{Metrics, ServerMetrics};
pub(crate) use prefix_index::common_prefix;
pub use request::{Answer, Event, Failure, Request, Token};
pub use settings::Settings;

use kvant::model::{SamplerError, Tokenizer, Transformer};
use scheduler::Scheduler;
pub(crate) use shared::SlotState;
use shared::{Open, Shared};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use task::Task;

/// The reason why a request was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The prompt is empty.
    #[error("the prompt is empty")]
    Empty,
    /// The prompt is longer than the context.
    #[error("the prompt of {tokens} tokens exceeds the available context size of {context} tokens")]
    Long {
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// The states of the request do not fit in the memory for states.
    #[error("the request needs {needed} bytes for its states, and the server has {limit}")]
    Memory {
        /// Bytes for the prompt and the whole answer.
        needed: usize,
        /// Bytes of the memory for states.
        limit: usize,
    },
    /// A token that is not in the vocabulary.
    #[error("token {token} is not in the vocabulary of {vocabulary} tokens")]
    Token {
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocabulary: usize,
    },
    /// A sampling setting outside its range.
    #[error(transparent)]
    Sampling(#[from] SamplerError),
    /// The queue is full.
    #[error("{waiting} requests wait already; try again later")]
    Busy {
        /// The number of requests that wait.
        waiting: usize,
    },
    /// The engine accepts no more requests, because it is about to end.
    #[error("the server is about to end")]
    Draining,
    /// The engine stopped after an error.
    #[error("the engine stopped after an error")]
    Stopped,
}

/// An engine. It ends when it is dropped: requests that run are ended.
pub struct Engine {
    network: Arc<Transformer>,
    tokenizer: Arc<Tokenizer>,
    settings: Settings,
    metrics: Metrics,
    shared: Arc<Shared>,
    arrivals: AtomicU64,
    submissions: Mutex<Option<Sender<Task>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Engine {
    /// Starts an engine that counts in `metrics`.
    ///
    /// # Errors
    /// The system cannot start a thread.
    pub fn start(
        network: Arc<Transformer>,
        tokenizer: Arc<Tokenizer>,
        settings: Settings,
        metrics: Metrics,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        metrics.state_limit.set(i64::try_from(settings.state_bytes).unwrap_or(i64::MAX));
        let (submissions, submitted) = channel();
        let scheduler = Scheduler::new(network.clone(), tokenizer.clone(), settings.clone(), metrics.clone());
        let (of_thread, of_thread_metrics) = (shared.clone(), metrics.clone());
        let thread = std::thread::Builder::new().name("kvant-engine".to_owned()).spawn(move || {
            let run = std::panic::catch_unwind(AssertUnwindSafe(|| scheduler.run(&submitted, &of_thread)));
            of_thread.stopped.store(run.is_err(), Ordering::Release);
            of_thread_metrics.clear();
        })?;
        Ok(Self {
            network,
            tokenizer,
            settings,
            metrics,
            shared,
            arrivals: AtomicU64::new(0),
            submissions: Mutex::new(Some(submissions)),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// The network.
    pub fn network(&self) -> &Transformer {
        &self.network
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The requests that run.
    pub(crate) fn slots(&self) -> Vec<SlotState> {
        self.shared.slots.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// True if the engine stopped after an error.
    pub fn is_stopped(&self) -> bool {
        self.shared.stopped.load(Ordering::Acquire)
    }

    /// Submits a request. It starts when there is room.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn submit(&self, request: Request) -> Result<Answer, Refusal> {
        self.check(&request)?;
        let most = self.settings.parallel + self.settings.queue;
        let Some(open) = Open::new(&self.shared, most) else {
            self.metrics.refused.inc();
            return Err(Refusal::Busy { waiting: self.settings.queue });
        };
        let (sender, events) = tokio::sync::mpsc::unbounded_channel();
        let arrival = self.arrivals.fetch_add(1, Ordering::Relaxed);
        let task = Task::new(request, &self.tokenizer, arrival, sender, open)?;
        if self.is_stopped() {
            return Err(Refusal::Stopped);
        }
        let submissions = self.submissions.lock().unwrap_or_else(PoisonError::into_inner);
        let submissions = submissions.as_ref().ok_or(Refusal::Draining)?;
        submissions.send(task).map_err(|_| Refusal::Stopped)?;
        Ok(Answer { events })
    }

    fn check(&self, request: &Request) -> Result<(), Refusal> {
        let (tokens, context) = (request.prompt.len(), self.settings.context);
        if tokens == 0 {
            return Err(Refusal::Empty);
        }
        if tokens > context {
            return Err(Refusal::Long { tokens, context });
        }
        let vocabulary = self.network.spec().vocabulary;
        if let Some(&token) =
            request.prompt.iter().chain(&request.choices).find(|&&token| token as usize >= vocabulary)
        {
            return Err(Refusal::Token { token, vocabulary });
        }
        let needed = self.bytes(tokens.saturating_add(request.limit).min(context));
        let limit = self.settings.state_bytes;
        if needed > limit { Err(Refusal::Memory { needed, limit }) } else { Ok(()) }
    }

    /// The number of bytes of the states of a request with `tokens` tokens, prompt and answer together.
    fn bytes(&self, tokens: usize) -> usize {
        self.network.sequence(tokens).bytes(tokens)
    }

    /// Accepts no more requests. Those that wait or run are answered.
    pub fn drain(&self) {
        self.submissions.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// True if all requests have ended.
    pub fn is_idle(&self) -> bool {
        self.shared.open.load(Ordering::Acquire) == 0
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::Release);
        self.drain();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A panic of the thread was already caught.
        let join = || drop(thread.map(JoinHandle::join));
        // The step that runs now can take a moment. Other tasks of this worker go on meanwhile.
        match tokio::runtime::Handle::try_current().map(|handle| handle.runtime_flavor()) {
            Ok(tokio::runtime::RuntimeFlavor::MultiThread) => tokio::task::block_in_place(join),
            _ => join(),
        }
    }
}
