//! Prints results on stdout and progress on stderr.

use crate::arguments::Common;
use crate::failure::Failure;
use crate::{signals, terminal};
use indicatif::{ProgressBar, ProgressStyle};
use kvant::Progress;
use serde::Serialize;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Prints a result: with `--json` as a JSON object that includes the program's version, otherwise with `print`.
pub fn show<T: Serialize>(
    common: &Common,
    result: &T,
    print: impl FnOnce(&T) -> Result<(), Failure>,
) -> Result<ExitCode, Failure> {
    if common.json {
        let text = kvant::report::json(result, env!("CARGO_PKG_VERSION"));
        line(&terminal::json(&text.map_err(|e| Failure::Fault(e.to_string()))?))?;
    } else {
        print(result)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints one or several lines. Characters that control a terminal are escaped.
pub fn line(text: &str) -> Result<(), Failure> {
    use std::io::Write;
    writeln!(std::io::stdout().lock(), "{}", terminal::lines(text)).map_err(Failure::stdout)
}

/// A progress bar on stderr. The bar is hidden if stderr is not a terminal.
pub struct Bar {
    bar: ProgressBar,
    step: Mutex<Option<Beginning>>,
    quiet: bool,
}

/// The state of a step at its first progress report. A resumed step begins with `done` above 0.
struct Beginning {
    at: Instant,
    done: u64,
    /// The total of the step. A report with another total belongs to another step, whose parts take a different time.
    total: u64,
}

impl Bar {
    /// Creates a bar of unknown length.
    pub fn new(common: &Common) -> Self {
        let bar = if common.quiet { ProgressBar::hidden() } else { ProgressBar::no_length() };
        if let Ok(style) = ProgressStyle::with_template("{prefix} [{bar:32}] {percent}% {wide_msg}") {
            bar.set_style(style);
        }
        Self { bar, step: Mutex::new(None), quiet: common.quiet }
    }

    /// Returns the estimated remaining time of a step as text; `None` in the first two seconds of the step. The
    /// estimate uses the mean speed since the step began, because the parts of a step take very different times.
    fn left(&self, done: u64, total: u64) -> Option<String> {
        let mut step = self.step.lock().unwrap_or_else(PoisonError::into_inner);
        let same = step.take().filter(|begun| begun.total == total && begun.done <= done);
        let begun = step.insert(same.unwrap_or_else(|| Beginning { at: Instant::now(), done, total }));
        let (through, elapsed) = (done - begun.done, begun.at.elapsed().as_secs_f64());
        if through == 0 || elapsed < 2.0 {
            return None;
        }
        let seconds = elapsed / through as f64 * total.saturating_sub(done) as f64;
        Some(match seconds {
            s if s < 90.0 => format!("{s:.0} s left"),
            s if s < 5400.0 => format!("{:.0} min left", s / 60.0),
            s => format!("{:.1} h left", s / 3600.0),
        })
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Progress for Bar {
    fn begin(&self, step: &str) {
        self.bar.finish_and_clear();
        self.bar.reset();
        self.bar.set_prefix(step.to_owned());
    }

    fn inform(&self, text: &str) {
        if !self.quiet {
            self.bar.suspend(|| terminal::say(text));
        }
    }

    fn note(&self, text: &str) {
        self.bar.suspend(|| terminal::say(format_args!("note: {text}")));
    }

    fn at(&self, done: u64, total: u64, what: &str) {
        self.bar.set_length(total);
        self.bar.set_position(done);
        let left = self.left(done, total).unwrap_or_default();
        self.bar.set_message(if what.is_empty() {
            left
        } else {
            format!("{}  {left}", terminal::name(what))
        });
        if done == total {
            self.bar.finish_and_clear();
        }
    }

    fn stop(&self) -> bool {
        signals::interrupts() > 0
    }
}
