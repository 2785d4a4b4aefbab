//! The bounds of a template's work, and the errors that name them.
//!
//! Invariant: every operation charges its cost here before it happens. Steps bound the time, bytes bound the memory,
//! depths bound the stack. The clock is a second bound, for a machine that is slower than the steps assume.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Bytes that a template may have.
pub const TEMPLATE_BYTES: usize = 1 << 20;
/// Steps of one rendering: far above real templates, which take some hundreds a message.
const STEPS: u64 = 10_000_000;
/// Bytes that one rendering may make, freed ones included.
const BYTES: u64 = 128 << 20;
/// Bytes that one rendering may write.
const OUTPUT_BYTES: usize = 64 << 20;
/// Time of one rendering.
const TIME: Duration = Duration::from_secs(3);
/// Steps between two looks at the clock.
const STEPS_BETWEEN_LOOKS: u64 = 4096;
/// Depth of expressions and blocks in the source.
pub const SOURCE_DEPTH: usize = 200;
/// Depth of evaluation: expressions, blocks and macro calls inside each other.
const EVALUATION_DEPTH: usize = 1000;
/// Depth of lists and mappings inside each other; `serde_json` admits 128.
pub const VALUE_DEPTH: u32 = 200;
/// Stack of the thread that parses and renders: 32 KiB for each level of evaluation.
pub const STACK_BYTES: usize = 32 << 20;

/// The kind of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The source is no template.
    Syntax,
    /// Jinja2 fails here, too.
    Runtime,
    /// The template called `raise_exception`.
    Raised,
    /// A bound of this module.
    Limit,
}

/// A failure, with the place in the source where it is known.
#[derive(Clone, Debug)]
pub struct Error {
    /// Its kind.
    pub kind: Kind,
    /// In words.
    pub message: String,
    /// Byte offset in the source.
    pub at: Option<u32>,
}

/// Result of everything here.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Jinja2 fails here, too.
    pub fn new(message: impl Into<String>) -> Self {
        Self { kind: Kind::Runtime, message: message.into(), at: None }
    }

    /// A bound is exceeded.
    pub fn limit(message: impl Into<String>) -> Self {
        Self { kind: Kind::Limit, message: message.into(), at: None }
    }

    /// The source is no template.
    pub fn syntax(message: impl Into<String>, at: usize) -> Self {
        Self { kind: Kind::Syntax, message: message.into(), at: Some(at as u32) }
    }

    /// Adds the place, unless an inner place is known.
    pub fn or_at(mut self, at: u32) -> Self {
        self.at.get_or_insert(at);
        self
    }
}

/// Shorthand for a failing result.
pub fn fail<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::new(message))
}

/// The cost of one rendering so far.
pub struct Budget {
    steps: Cell<u64>,
    next_look: Cell<u64>,
    bytes: Cell<u64>,
    depth: Cell<usize>,
    deadline: Instant,
}

impl Budget {
    /// A rendering that begins now.
    pub fn new() -> Self {
        Self {
            steps: Cell::new(0),
            next_look: Cell::new(STEPS_BETWEEN_LOOKS),
            bytes: Cell::new(0),
            depth: Cell::new(0),
            deadline: Instant::now() + TIME,
        }
    }

    /// Charges `count` steps.
    pub fn steps(&self, count: usize) -> Result<()> {
        let steps = self.steps.get().saturating_add(count as u64);
        self.steps.set(steps);
        if steps > STEPS {
            return Err(Error::limit(format!("it takes more than {STEPS} steps")));
        }
        if steps >= self.next_look.get() {
            self.next_look.set(steps + STEPS_BETWEEN_LOOKS);
            if Instant::now() > self.deadline {
                return Err(Error::limit(format!("it takes longer than {} s", TIME.as_secs())));
            }
        }
        Ok(())
    }

    /// Charges a look at `bytes` bytes.
    pub fn scan(&self, bytes: usize) -> Result<()> {
        self.steps(1 + bytes / 8)
    }

    /// Charges `bytes` bytes, before they are allocated.
    pub fn allocate(&self, bytes: usize) -> Result<()> {
        let total = self.bytes.get().saturating_add(bytes as u64);
        if total > BYTES {
            return Err(Error::limit(format!("it makes more than {} MiB of values", BYTES >> 20)));
        }
        self.bytes.set(total);
        self.steps(1 + bytes / 64)
    }

    /// Charges a list of `count` values.
    pub fn values(&self, count: usize) -> Result<()> {
        self.allocate(count.saturating_mul(32).saturating_add(64))
    }

    /// Refuses an output of more than the bound.
    pub fn output(&self, bytes: usize) -> Result<()> {
        if bytes > OUTPUT_BYTES {
            return Err(Error::limit(format!("it writes more than {} MiB", OUTPUT_BYTES >> 20)));
        }
        Ok(())
    }

    /// One level deeper, until the result of `inside` is there.
    pub fn deeper<T>(&self, inside: impl FnOnce() -> Result<T>) -> Result<T> {
        let depth = self.depth.get();
        if depth >= EVALUATION_DEPTH {
            return Err(Error::limit(format!(
                "its evaluation is nested deeper than {EVALUATION_DEPTH} levels"
            )));
        }
        self.depth.set(depth + 1);
        let result = inside();
        self.depth.set(depth);
        result
    }
}
