//! Counters of the engines, in the format of Prometheus. Names are those of llama.cpp's server where it has the same
//! quantity.

use super::task::Times;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::{Metric, Registry};
use std::time::Instant;

/// The quantities, each as a gauge `G`, a counter `C` or a histogram `H`.
#[derive(Clone, Debug, Default)]
pub struct Quantities<G, C, H> {
    pub(super) running: G,
    pub(super) waiting: G,
    pub(super) state_bytes: G,
    pub(super) state_limit: G,
    pub(super) index_entries: G,
    pub(super) prompt_tokens: C,
    pub(super) cached_tokens: C,
    pub(super) answer_tokens: C,
    pub(super) finished: C,
    pub(super) cancelled: C,
    pub(super) refused: C,
    pub(super) preempted: C,
    pub(super) steps: C,
    pub(super) step_tokens: C,
    pub(super) step_seconds: H,
    pub(super) first_token_seconds: H,
    pub(super) between_tokens_seconds: H,
}

/// The metrics of one model.
pub type Metrics = Quantities<Gauge, Counter, Seconds>;

/// The metrics of several models. They count on when a model leaves and comes back.
type MetricFamilies = Quantities<Family<Labels, Gauge>, Family<Labels, Counter>, Family<Labels, Seconds>>;

/// The metrics of a server.
#[derive(Debug)]
pub enum ServerMetrics {
    /// One model, whose metrics have no label.
    One(Metrics),
    /// Several models, whose metrics have the label `model`.
    Several(MetricFamilies),
}

impl ServerMetrics {
    /// The metrics of a server with `models` models.
    pub fn new(models: usize) -> Self {
        if models == 1 { Self::One(Metrics::default()) } else { Self::Several(MetricFamilies::default()) }
    }

    /// The metrics of a model.
    pub fn of(&self, model: &str) -> Metrics {
        match self {
            Self::One(metrics) => metrics.clone(),
            Self::Several(families) => families.of(model),
        }
    }

    /// Registers all metrics.
    pub fn register(&self, registry: &mut Registry) {
        match self {
            Self::One(metrics) => metrics.register(registry),
            Self::Several(families) => families.register(registry),
        }
    }
}

/// The name of the model.
type Labels = [(&'static str, String); 1];

/// A histogram of times from 1 ms to 65 s.
#[derive(Clone, Debug)]
pub struct Seconds(pub(super) Histogram);

impl Default for Seconds {
    fn default() -> Self {
        Self(Histogram::new(exponential_buckets(0.001, 2.0, 17)))
    }
}

impl TypedMetric for Seconds {
    const TYPE: MetricType = Histogram::TYPE;
}

impl EncodeMetric for Seconds {
    fn encode(&self, encoder: MetricEncoder<'_>) -> std::fmt::Result {
        self.0.encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl MetricFamilies {
    /// The metrics of a model.
    fn of(&self, model: &str) -> Metrics {
        let labels: &Labels = &[("model", model.to_owned())];
        Quantities {
            running: self.running.get_or_create_owned(labels),
            waiting: self.waiting.get_or_create_owned(labels),
            state_bytes: self.state_bytes.get_or_create_owned(labels),
            state_limit: self.state_limit.get_or_create_owned(labels),
            index_entries: self.index_entries.get_or_create_owned(labels),
            prompt_tokens: self.prompt_tokens.get_or_create_owned(labels),
            cached_tokens: self.cached_tokens.get_or_create_owned(labels),
            answer_tokens: self.answer_tokens.get_or_create_owned(labels),
            finished: self.finished.get_or_create_owned(labels),
            cancelled: self.cancelled.get_or_create_owned(labels),
            refused: self.refused.get_or_create_owned(labels),
            preempted: self.preempted.get_or_create_owned(labels),
            steps: self.steps.get_or_create_owned(labels),
            step_tokens: self.step_tokens.get_or_create_owned(labels),
            step_seconds: self.step_seconds.get_or_create_owned(labels),
            first_token_seconds: self.first_token_seconds.get_or_create_owned(labels),
            between_tokens_seconds: self.between_tokens_seconds.get_or_create_owned(labels),
        }
    }
}

impl<G: Metric + Clone, C: Metric + Clone, H: Metric + Clone> Quantities<G, C, H> {
    /// Registers all metrics.
    fn register(&self, registry: &mut Registry) {
        for (name, help, gauge) in [
            ("requests_processing", "Requests that run", &self.running),
            ("requests_deferred", "Requests that wait", &self.waiting),
            ("state_bytes", "Memory of the states of requests and of the prefix index", &self.state_bytes),
            ("state_limit_bytes", "Largest memory of states", &self.state_limit),
            ("prefix_index_entries", "Entries of the prefix index", &self.index_entries),
        ] {
            registry.register(name, help, gauge.clone());
        }
        for (name, help, counter) in [
            ("prompt_tokens", "Tokens of prompts that were read", &self.prompt_tokens),
            (
                "prompt_tokens_cached",
                "Tokens of prompts that another request had already read",
                &self.cached_tokens,
            ),
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
}

impl Metrics {
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

    /// Counts a request for vectors. It takes one step.
    pub(crate) fn embedded(&self, tokens: usize) {
        self.prompt_tokens.inc_by(tokens as u64);
        self.step_tokens.inc_by(tokens as u64);
        self.steps.inc();
        self.finished.inc();
    }

    /// No request runs, and no state is kept.
    pub(super) fn clear(&self) {
        for gauge in [&self.running, &self.waiting, &self.state_bytes, &self.state_limit, &self.index_entries]
        {
            gauge.set(0);
        }
    }

    /// Counts a token of an answer. `before` is the time of the token before it.
    pub(super) fn answered(&self, times: &Times, before: Option<Instant>) {
        self.answer_tokens.inc();
        let now = Instant::now();
        match (times.last_token, before) {
            (Some(_), Some(before)) => self.between_tokens_seconds.0.observe((now - before).as_secs_f64()),
            _ => self.first_token_seconds.0.observe((now - times.submitted).as_secs_f64()),
        }
    }
}
