//! How results look: JSON, sizes, progress bars.

use crate::arguments::Common;
use crate::failure::Failure;
use crate::{open, terminal};
use indicatif::{ProgressBar, ProgressStyle};
use kvant::io::OutputFile;
use kvant::quant::Progress;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Prints the one JSON object of `--json`, with the version in it.
pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    let mut value = serde_json::to_value(value).map_err(|e| Failure::Fault(e.to_string()))?;
    if let Some(object) = value.as_object_mut() {
        object.insert("kvant".into(), env!("CARGO_PKG_VERSION").into());
    }
    line(&terminal::json(&value.to_string()))
}

/// Prints one line, or several, with nothing in it that acts on a terminal.
pub fn line(text: &str) -> Result<(), Failure> {
    use std::io::Write;
    writeln!(std::io::stdout().lock(), "{}", terminal::lines(text)).map_err(Failure::stdout)
}

/// Refuses, before the work, outputs that cannot be written, and those that are one file with another output or an input.
pub fn check(outputs: &[&Path], inputs: &[&Path], force: bool) -> Result<(), Failure> {
    OutputFile::check_all(outputs, inputs, force).map_err(|error| match error {
        kvant::io::Error::OutputName { .. } => Failure::Usage(error.to_string()),
        error => error.into(),
    })
}

/// The path of the card with the measurements of a file: beside it, `.card.json` behind its name.
pub fn card_path(path: &Path) -> Option<PathBuf> {
    let mut name = path.file_name()?.to_owned();
    name.push(".card.json");
    Some(path.with_file_name(name))
}

/// Bytes as people read them.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["B", "KiB", "MiB", "GiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A bar on stderr, if that is a terminal.
pub struct Bar {
    bar: ProgressBar,
    step: Mutex<Option<Beginning>>,
}

/// Where a step was when it was first heard of: one that goes on does not begin at nothing.
struct Beginning {
    at: Instant,
    done: u64,
    /// Another total is another step, whose parts take another time.
    total: u64,
}

impl Bar {
    /// A bar of unknown length.
    pub fn new(common: &Common, what: &str) -> Self {
        let bar = if common.quiet { ProgressBar::hidden() } else { ProgressBar::no_length() };
        if let Ok(style) = ProgressStyle::with_template("{prefix} [{bar:32}] {percent}% {wide_msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(what.to_owned());
        Self { bar, step: Mutex::new(None) }
    }

    /// `done` of `total`; false once the user wants to stop.
    pub fn step(&self, done: usize, total: usize) -> bool {
        self.at(done as u64, total as u64, "");
        open::interrupts() == 0
    }

    /// Takes the bar off the screen.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }

    /// What is left of a step, at its mean speed so far: steps differ too much for the last ones to tell.
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

impl Progress for Bar {
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
        open::interrupts() > 0
    }
}
