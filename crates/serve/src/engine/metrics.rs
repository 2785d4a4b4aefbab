//! Counters of an engine, in the format of Prometheus. Names are those of llama.cpp's server where it has the same
//! quantity.

use super::task::Times;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::time::Instant;

/// The metrics of an engine.
#[derive(Debug)]
pub struct Metrics {
    pub(super) running: Gauge,
    pub(super) waiting: Gauge,
    pub(super) state_bytes: Gauge,
    pub(super) index_entries: Gauge,
    pub(super) prompt_tokens: Counter,
    pub(super) cached_tokens: Counter,
    pub(super) answer_tokens: Counter,
    pub(super) finished: Counter,
    pub(super) cancelled: Counter,
    pub(super) refused: Counter,
    pub(super) preempted: Counter,
    pub(super) steps: Counter,
    pub(super) step_tokens: Counter,
    pub(super) step_seconds: Histogram,
    pub(super) first_token_seconds: Histogram,
    pub(super) between_tokens_seconds: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        // 1 ms to 65 s.
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 17));
        Self {
            running: Gauge::default(),
            waiting: Gauge::default(),
            state_bytes: Gauge::default(),
            index_entries: Gauge::default(),
            prompt_tokens: Counter::default(),
            cached_tokens: Counter::default(),
            answer_tokens: Counter::default(),
            finished: Counter::default(),
            cancelled: Counter::default(),
            refused: Counter::default(),
            preempted: Counter::default(),
            steps: Counter::default(),
            step_tokens: Counter::default(),
            step_seconds: seconds(),
            first_token_seconds: seconds(),
            between_tokens_seconds: seconds(),
        }
    }
}

impl Metrics {
    /// Registers all metrics.
    pub fn register(&self, registry: &mut Registry) {
        for (name, help, gauge) in [
            ("requests_processing", "Requests that run", &self.running),
            ("requests_deferred", "Requests that wait", &self.waiting),
            ("state_bytes", "Memory of the states of requests and of the prefix index", &self.state_bytes),
            ("prefix_index_entries", "Entries of the prefix index", &self.index_entries),
        ] {
            registry.register(name, help, gauge.clone());
        }
        for (name, help, counter) in [
            ("prompt_tokens", "Tokens of prompts", &self.prompt_tokens),
            ("cached_tokens", "Tokens of prompts that were not read again", &self.cached_tokens),
            ("tokens_predicted", "Tokens of answers", &self.answer_tokens),
            ("requests_finished", "Answers that ended", &self.finished),
            ("requests_cancelled", "Requests whose client left or whose deadline passed", &self.cancelled),
            ("requests_refused", "Requests that found a full queue", &self.refused),
            ("requests_preempted", "Requests that gave their memory to an older one", &self.preempted),
            ("steps", "Steps of the network", &self.steps),
            ("step_tokens", "Tokens in all steps", &self.step_tokens),
        ] {
            registry.register(name, help, counter.clone());
        }
        for (name, help, histogram) in [
            ("step_seconds", "Time of a step", &self.step_seconds),
            (
                "time_to_first_token_seconds",
                "Time from the request to its first token",
                &self.first_token_seconds,
            ),
            ("between_tokens_seconds", "Time between two tokens of an answer", &self.between_tokens_seconds),
        ] {
            registry.register(name, help, histogram.clone());
        }
    }

    /// The memory of states now, in bytes.
    pub fn state_bytes(&self) -> u64 {
        self.state_bytes.get() as u64
    }

    /// The number of requests that run and that wait.
    pub fn requests(&self) -> (u64, u64) {
        (self.running.get() as u64, self.waiting.get() as u64)
    }

    /// The number of requests that gave their memory to an older one.
    pub fn preempted(&self) -> u64 {
        self.preempted.get()
    }

    /// Counts a token of an answer. `before` is the time of the token before it.
    pub(super) fn answered(&self, times: &Times, before: Option<Instant>) {
        self.answer_tokens.inc();
        let now = Instant::now();
        match (times.last_token, before) {
            (Some(_), Some(before)) => self.between_tokens_seconds.observe((now - before).as_secs_f64()),
            _ => self.first_token_seconds.observe((now - times.submitted).as_secs_f64()),
        }
    }
}
