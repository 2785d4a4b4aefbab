//! The limits of a template's work, and the errors that report them.
//!
//! Invariant: every operation charges its cost here before it runs. Steps bound the time, bytes bound the memory, and
//! depths bound the stack. The clock is a second limit of the time, for machines that are slower than the limit of
//! steps assumes.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Maximum length of a template's source, in bytes.
pub const TEMPLATE_BYTES: usize = 1 << 20;
/// Maximum number of steps of one rendering. Real templates need only some hundreds of steps per message.
const STEPS: u64 = 10_000_000;
/// Maximum number of bytes that one rendering allocates, including bytes that it frees.
const BYTES: u64 = 128 << 20;
/// Maximum length of the rendered text, in bytes.
const OUTPUT_BYTES: usize = 64 << 20;
/// Maximum time of one rendering.
const TIME: Duration = Duration::from_secs(3);
/// Number of steps between two checks of the clock.
const STEPS_BETWEEN_LOOKS: u64 = 4096;
/// Maximum nesting depth of expressions and blocks in the source.
pub const SOURCE_DEPTH: usize = 200;
/// Maximum nesting depth of evaluation: expressions, blocks and macro calls.
const EVALUATION_DEPTH: usize = 1000;
/// Maximum nesting depth of lists and mappings. `serde_json` accepts a depth of 128 in its input.
pub const VALUE_DEPTH: u32 = 200;
/// Stack size, in bytes, of the thread that parses and renders: 32 KiB for each level of evaluation.
pub const STACK_BYTES: usize = 32 << 20;

/// The kind of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The source is not a valid template.
    Syntax,
    /// The rendering fails; it fails in Jinja2, too.
    Runtime,
    /// The template called `raise_exception`.
    Raised,
    /// A limit of this module is exceeded.
    Limit,
}

/// An error, with its place in the source if the place is known.
#[derive(Clone, Debug)]
pub struct Error {
    pub kind: Kind,
    /// The error message, without the place.
    pub message: String,
    /// Byte offset in the source.
    pub at: Option<u32>,
}

/// Result of parsing and rendering.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Creates an error of the kind [`Kind::Runtime`].
    pub fn new(message: impl Into<String>) -> Self {
        Self { kind: Kind::Runtime, message: message.into(), at: None }
    }

    /// Creates an error of the kind [`Kind::Limit`].
    pub fn limit(message: impl Into<String>) -> Self {
        Self { kind: Kind::Limit, message: message.into(), at: None }
    }

    /// Creates an error of the kind [`Kind::Syntax`] at the byte offset `at`.
    pub fn syntax(message: impl Into<String>, at: usize) -> Self {
        Self { kind: Kind::Syntax, message: message.into(), at: Some(at as u32) }
    }

    /// Sets the place, unless the error already has the place of an inner expression.
    pub fn or_at(mut self, at: u32) -> Self {
        self.at.get_or_insert(at);
        self
    }
}

/// Returns an error of the kind [`Kind::Runtime`].
pub fn fail<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::new(message))
}

/// The cost of one rendering up to now.
pub struct Budget {
    steps: Cell<u64>,
    next_look: Cell<u64>,
    bytes: Cell<u64>,
    depth: Cell<usize>,
    deadline: Instant,
}

impl Budget {
    /// Starts the budget and the clock of a rendering.
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

    /// Charges the steps for reading `bytes` bytes.
    pub fn scan(&self, bytes: usize) -> Result<()> {
        self.steps(1 + bytes / 8)
    }

    /// Charges `bytes` bytes of memory. Must be called before the allocation.
    pub fn allocate(&self, bytes: usize) -> Result<()> {
        let total = self.bytes.get().saturating_add(bytes as u64);
        if total > BYTES {
            return Err(Error::limit(format!("it makes more than {} MiB of values", BYTES >> 20)));
        }
        self.bytes.set(total);
        self.steps(1 + bytes / 64)
    }

    /// Charges the memory of a list of `count` values.
    pub fn values(&self, count: usize) -> Result<()> {
        self.allocate(count.saturating_mul(32).saturating_add(64))
    }

    /// Returns an error if an output of `bytes` bytes is longer than the limit.
    pub fn output(&self, bytes: usize) -> Result<()> {
        if bytes > OUTPUT_BYTES {
            return Err(Error::limit(format!("it writes more than {} MiB", OUTPUT_BYTES >> 20)));
        }
        Ok(())
    }

    /// Runs `inside` one level of evaluation deeper.
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
