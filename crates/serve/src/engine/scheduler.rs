//! Continuous batching: each step runs one token of every running answer, and pieces of the prompts.
//!
//! Invariants:
//! - An answer depends neither on other requests nor on the order of steps, because a sequence has the same bits in each
//!   batch and in each division of its prompt ([`Transformer::step`]).
//! - A running answer gets a token in every step. The prompts share the rest of the step, the shortest one first, so
//!   neither a short prompt nor the answers wait for a long prompt, and every prompt advances in every step.
//! - States never take more memory than the pool has. If a step needs more, entries of the prefix index go first, then
//!   the youngest running request waits again, and later reads its tokens once more.

use super::metrics::Metrics;
use super::pace::Pace;
use super::prefix_index::{PrefixIndex, common_prefix};
use super::request::Failure;
use super::settings::Settings;
use super::shared::{Shared, SlotState};
use super::task::Task;
use crate::constraint::Constraint;
use kvant::model::{Error, Finish, Part, Sequence, StatePool, Tokenizer, Transformer, Want};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

/// A request waits for a running one that reads the same beginning, if that saves at least this number of tokens.
const WORTH_WAITING: usize = 32;
/// The number of rows of logits of a prompt that are computed at the same time.
const PROMPT_ROWS: usize = 16;

/// A task with states.
struct Running {
    task: Task,
    sequence: Sequence,
}

impl Running {
    /// The number of tokens that are not in the sequence.
    fn pending(&self) -> usize {
        self.task.tokens.len() - self.sequence.len()
    }

    /// The largest number of tokens that the next step may read: it ends at a boundary.
    fn up_to_boundary(&self) -> usize {
        let length = self.sequence.len();
        let next = self.task.request.boundaries.iter().filter(|b| **b > length).min();
        next.map_or(self.pending(), |next| self.pending().min(next - length))
    }
}

/// The scheduler. It runs on a thread of its own.
pub struct Scheduler {
    network: Arc<Transformer>,
    tokenizer: Arc<Tokenizer>,
    settings: Settings,
    pool: StatePool,
    index: PrefixIndex,
    waiting: Vec<Task>,
    running: Vec<Running>,
    metrics: Metrics,
    pace: Pace,
}

impl Scheduler {
    /// Creates a scheduler without requests.
    pub fn new(
        network: Arc<Transformer>,
        tokenizer: Arc<Tokenizer>,
        settings: Settings,
        metrics: Metrics,
    ) -> Self {
        let pool = network.pool(settings.state_bytes);
        let index = PrefixIndex::default();
        let (waiting, running, pace) = (Vec::new(), Vec::new(), Pace::default());
        Self { network, tokenizer, settings, pool, index, waiting, running, metrics, pace }
    }

    /// Runs requests until the sender of `submitted` is gone and all requests have ended, or until `shared.end` is true.
    pub fn run(mut self, submitted: &Receiver<Task>, shared: &Shared) {
        while !shared.end.load(Ordering::Acquire) {
            if self.waiting.is_empty() && self.running.is_empty() {
                self.report(shared);
                match submitted.recv() {
                    Ok(task) => self.waiting.push(task),
                    Err(_) => return,
                }
            }
            self.waiting.extend(submitted.try_iter());
            self.remove_ended();
            self.admit();
            self.report(shared);
            self.step();
        }
    }

    fn report(&self, shared: &Shared) {
        self.metrics.running.set(self.running.len() as i64);
        self.metrics.waiting.set(self.waiting.len() as i64);
        self.metrics.state_bytes.set(self.pool.held() as i64);
        self.metrics.index_entries.set(self.index.len() as i64);
        let mut slots = shared.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.clear();
        slots.extend(self.running.iter().map(|Running { task, sequence }| SlotState {
            arrival: task.arrival,
            prompt: task.request.prompt.len(),
            read: sequence.len(),
            answered: task.answered(),
            limit: task.request.limit,
        }));
    }

    /// Removes requests whose client left or whose deadline passed.
    fn remove_ended(&mut self) {
        let now = Instant::now();
        let ended = |task: &Task| {
            if task.is_late(now) {
                task.fail(Failure::Deadline);
            }
            task.is_left() || task.is_late(now)
        };
        self.waiting.retain(|task| !ended(task));
        for index in (0..self.running.len()).rev() {
            if ended(&self.running[index].task) {
                self.metrics.cancelled.inc();
                self.leave(index);
            }
        }
    }

    /// Removes a running request, and keeps its states in the index.
    fn leave(&mut self, index: usize) {
        let Running { mut task, sequence } = self.running.remove(index);
        task.tokens.truncate(sequence.len());
        self.index.insert(std::mem::take(&mut task.tokens), sequence);
    }

    /// Starts waiting requests while there is room. Clients with the fewest running requests go first, then the oldest
    /// request.
    fn admit(&mut self) {
        let mut passed = Vec::new();
        while self.running.len() < self.settings.parallel && !self.waiting.is_empty() {
            let mut counts: HashMap<Arc<str>, usize> = HashMap::new();
            for running in &self.running {
                *counts.entry(running.task.request.client.clone()).or_default() += 1;
            }
            let order =
                |task: &Task| (counts.get(&task.request.client).copied().unwrap_or_default(), task.arrival);
            let next = (0..self.waiting.len()).min_by_key(|index| order(&self.waiting[*index]));
            let Some(next) = next else { break };
            let task = self.waiting.swap_remove(next);
            match self.start(task) {
                Started::Yes => {}
                Started::Later(task) => passed.push(task),
                Started::NoMemory(task) => {
                    passed.push(task);
                    break;
                }
            }
        }
        self.waiting.append(&mut passed);
    }

    /// Gives a request its states.
    fn start(&mut self, mut task: Task) -> Started {
        let reuse = task.longest_reuse();
        let (found, common) = self.index.find(&task.tokens[..reuse]);
        let mut best = found;
        let mut branch = common;
        for running in &mut self.running {
            let shared = common_prefix(&running.task.tokens, &task.tokens[..reuse]);
            let reached = running.sequence.truncated_length(shared.min(running.sequence.len()));
            if reached > best.as_ref().map_or(0, Sequence::len) {
                let mut sequence = running.sequence.fork();
                sequence.truncate(reached);
                best = Some(sequence);
            }
            branch = branch.max(shared);
            let reading = running.pending() > 1 && running.sequence.len() < shared;
            if reading && shared >= best.as_ref().map_or(0, Sequence::len) + WORTH_WAITING {
                if !running.task.request.boundaries.contains(&shared) {
                    running.task.request.boundaries.push(shared);
                }
                return Started::Later(task);
            }
        }
        let sequence = best.unwrap_or_else(|| self.pool.sequence(self.settings.context));
        // A network that cannot return to each length keeps its states where this text left a known one.
        if sequence.needs_checkpoints() && branch > sequence.len() {
            task.request.boundaries.push(branch);
        }
        if !sequence.needs_checkpoints() {
            task.request.boundaries.clear();
        }
        let needed = sequence.needed_bytes(task.tokens.len() - sequence.len());
        let growth = self.running.len() * sequence.bytes(1);
        while self.pool.limit() - self.pool.held() < needed + growth && self.index.evict() {}
        if self.pool.limit() - self.pool.held() < needed + growth && !self.running.is_empty() {
            return Started::NoMemory(task);
        }
        if task.times.admitted.is_none() {
            task.times.admitted = Some(Instant::now());
            task.cached_tokens = sequence.len();
            self.metrics.prompt_tokens.inc_by((task.request.prompt.len() - sequence.len()) as u64);
            self.metrics.cached_tokens.inc_by(sequence.len() as u64);
            task.progress(sequence.len());
        }
        self.running.push(Running { task, sequence });
        Started::Yes
    }

    /// Runs one step.
    fn step(&mut self) {
        let begin = Instant::now();
        let (answers, counts, states) = loop {
            if self.running.is_empty() {
                return;
            }
            let answers = self.answers();
            let counts = self.counts(answers);
            let mut constraints = Vec::new();
            let mut parts: Vec<Part> = (self.running.iter_mut().zip(&counts))
                .map(|(Running { task, sequence }, count)| {
                    let start = sequence.len();
                    let last = start + count == task.tokens.len();
                    let want = match (task.wants_prompt(), last) {
                        (true, _) => Want::All,
                        (false, true) => Want::Last,
                        (false, false) => Want::Nothing,
                    };
                    if last {
                        constraints.extend(task.request.constraint.as_mut());
                    }
                    Part { sequence, tokens: &task.tokens[start..start + count], want }
                })
                .collect();
            match beside(constraints, || self.network.step(&mut parts)) {
                Ok(states) => break (answers, counts, states),
                Err(Error::States { source }) => self.make_room(&source.to_string()),
                Err(error) => {
                    for running in self.running.drain(..) {
                        running.task.fail(Failure::Network(error.to_string()));
                    }
                }
            }
        };
        let tokens = counts.iter().sum::<usize>();
        self.metrics.steps.inc();
        self.metrics.step_tokens.inc_by(tokens as u64);
        self.advance(&counts, &states);
        let time = begin.elapsed();
        self.pace.note(answers, tokens, time);
        self.metrics.step_seconds.0.observe(time.as_secs_f64());
    }

    /// Frees memory for a step.
    fn make_room(&mut self, reason: &str) {
        if self.index.evict() {
            return;
        }
        let youngest = (0..self.running.len()).max_by_key(|index| self.running[*index].task.arrival);
        let Some(youngest) = youngest else { return };
        let Running { task, sequence } = self.running.remove(youngest);
        drop(sequence);
        if self.running.is_empty() {
            task.fail(Failure::Network(reason.to_owned()));
        } else {
            self.metrics.preempted.inc();
            self.waiting.push(task);
        }
    }

    /// The number of running requests whose prompt was read.
    fn answers(&self) -> usize {
        self.running.iter().filter(|running| running.pending() == 1).count()
    }

    /// Returns the number of tokens of each running request in the next step. `answers` of them have read their prompt.
    fn counts(&self, answers: usize) -> Vec<usize> {
        let mut counts = vec![1; self.running.len()];
        let mut readers: Vec<usize> =
            (0..self.running.len()).filter(|index| self.running[*index].pending() > 1).collect();
        readers.sort_by_key(|index| self.running[*index].up_to_boundary());
        if readers.is_empty() {
            return counts;
        }
        let mut budget = self.pace.prompt_tokens(answers, readers.len());
        for (index, reader) in readers.iter().enumerate() {
            // The shortest rest gets up to three quarters, so that a short prompt does not wait for a long one.
            let others = readers.len() - index - 1;
            let share = if others == 0 {
                budget
            } else {
                (budget / (others + 1)).max(budget - budget.div_ceil(4).max(others))
            };
            counts[*reader] = share.min(self.running[*reader].up_to_boundary());
            budget -= counts[*reader];
        }
        counts
    }

    /// Chooses the next token of each request whose tokens were all read, and removes requests that ended. `states` has
    /// the hidden states that the step returned.
    fn advance(&mut self, counts: &[usize], states: &[f32]) {
        let (hidden, network) = (self.network.spec().hidden, &self.network);
        let mut rest = states;
        let mut choosing = Vec::new();
        let mut last_states = Vec::new();
        let mut outcomes: Vec<Outcome> = Vec::with_capacity(counts.len());
        for (index, (running, count)) in self.running.iter_mut().zip(counts).enumerate() {
            let (task, sequence) = (&mut running.task, &mut running.sequence);
            if task.request.boundaries.contains(&sequence.len()) {
                sequence.checkpoint();
            }
            let last = sequence.len() == task.tokens.len();
            let rows = match (task.wants_prompt(), last) {
                (true, _) => *count,
                (false, true) => 1,
                (false, false) => 0,
            };
            let (own, others) = rest.split_at(rows * hidden);
            rest = others;
            outcomes.push(Outcome::GoesOn);
            task.progress(sequence.len());
            if task.wants_prompt() {
                let start = sequence.len() - count;
                if let Err(error) = score_prompt(network, task, start, own) {
                    outcomes[index] = Outcome::Failed(Failure::Network(error.to_string()));
                    continue;
                }
            }
            if !last {
                continue;
            }
            task.start();
            if task.request.limit == 0 {
                if !task.request.choices.is_empty()
                    && let Err(error) = task.weigh(&network.logits(&own[own.len() - hidden..]))
                {
                    outcomes[index] = Outcome::Failed(Failure::Network(error.to_string()));
                    continue;
                }
                task.end(Finish::Length, None);
                outcomes[index] = Outcome::Ended;
            } else {
                choosing.push(index);
                last_states.extend_from_slice(&own[own.len() - hidden..]);
            }
        }
        if !choosing.is_empty() {
            let logits = self.network.logits(&last_states);
            self.choose(&choosing, &logits, &mut outcomes);
        }
        for index in (0..outcomes.len()).rev() {
            match std::mem::replace(&mut outcomes[index], Outcome::GoesOn) {
                Outcome::GoesOn => {}
                Outcome::Ended => {
                    self.metrics.finished.inc();
                    self.leave(index);
                }
                Outcome::Failed(failure) => self.running.remove(index).task.fail(failure),
            }
        }
    }

    /// Chooses a token for each of the running requests `choosing`. `logits` has a row for each.
    fn choose(&mut self, choosing: &[usize], logits: &[f32], outcomes: &mut [Outcome]) {
        let vocabulary = self.network.spec().vocabulary;
        let tasks = self.running.iter_mut().enumerate().filter(|(index, _)| choosing.contains(index));
        // Each thread locks only its own task, so no thread waits for a lock.
        let tasks: Vec<Mutex<&mut Task>> = tasks.map(|(_, running)| Mutex::new(&mut running.task)).collect();
        let tokens: Vec<OnceLock<_>> = choosing.iter().map(|_| OnceLock::new()).collect();
        self.network.backend().pool().run(choosing.len(), &|row| {
            let mut task = tasks[row].lock().unwrap_or_else(PoisonError::into_inner);
            tokens[row].get_or_init(|| task.choose(&logits[row * vocabulary..][..vocabulary]));
        });
        drop(tasks);
        for (index, token) in choosing.iter().zip(tokens.into_iter().filter_map(OnceLock::into_inner)) {
            let Running { task, sequence } = &mut self.running[*index];
            outcomes[*index] = match token {
                Err(error) => Outcome::Failed(error.into()),
                Ok(token) => {
                    let before = task.times.last_token;
                    let ends = self.tokenizer.end_of_generation().contains(&token.id);
                    // The context has the token that was chosen now, too.
                    let ended = task.append(token, ends, sequence.len() + 1 < sequence.capacity());
                    self.metrics.answered(&task.times, before);
                    if ended { Outcome::Ended } else { Outcome::GoesOn }
                }
            };
        }
    }
}

/// Runs `work`, and computes the next masks of grammars on another thread at the same time. Masks that are not computed when
/// `work` ends are computed later, by all threads.
fn beside<R>(constraints: Vec<&mut Constraint>, work: impl FnOnce() -> R) -> R {
    if constraints.is_empty() {
        return work();
    }
    let ended = AtomicBool::new(false);
    let prepare = || {
        let constraints = constraints.into_iter();
        constraints.take_while(|_| !ended.load(Ordering::Relaxed)).for_each(Constraint::prepare);
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("kvant-masks".to_owned());
        // Without a thread, the masks are computed later.
        let _ = thread.spawn_scoped(scope, prepare);
        let result = work();
        ended.store(true, Ordering::Relaxed);
        result
    })
}

/// The result of [`Scheduler::start`]. A task that did not start is returned.
enum Started {
    Yes,
    /// A running request reads the same beginning.
    Later(Task),
    NoMemory(Task),
}

/// The state of a request after a step.
enum Outcome {
    GoesOn,
    Ended,
    Failed(Failure),
}

/// Computes and sends the log probabilities of tokens of a prompt from the hidden states of the positions from `start` on.
fn score_prompt(
    network: &Transformer,
    task: &mut Task,
    start: usize,
    states: &[f32],
) -> Result<(), kvant::model::SamplerError> {
    let (hidden, vocabulary) = (network.spec().hidden, network.spec().vocabulary);
    for (index, rows) in states.chunks(PROMPT_ROWS * hidden).enumerate() {
        let first = start + index * PROMPT_ROWS;
        let logits = network.logits(rows);
        task.score_prompt(first..first + rows.len() / hidden, &mut |position| {
            logits[(position - first) * vocabulary..][..vocabulary].to_vec()
        })?;
    }
    Ok(())
}
