//! How results look: JSON, sizes, progress bars.

use crate::arguments::Common;
use crate::failure::Failure;
use crate::open;
use indicatif::{ProgressBar, ProgressStyle};
use kvant::quant::Progress;
use serde::Serialize;

/// Prints the one JSON object of `--json`, with the version in it.
pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    let mut value = serde_json::to_value(value).map_err(|e| Failure::Fault(e.to_string()))?;
    if let Some(object) = value.as_object_mut() {
        object.insert("kvant".into(), env!("CARGO_PKG_VERSION").into());
    }
    line(&value.to_string())
}

/// Prints one line; a closed pipe is a fault like any other, not a panic.
pub fn line(text: &str) -> Result<(), Failure> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    Ok(writeln!(out, "{text}")?)
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
pub struct Bar(ProgressBar);

impl Bar {
    /// A bar of unknown length.
    pub fn new(common: &Common, what: &str) -> Self {
        let bar = if common.quiet { ProgressBar::hidden() } else { ProgressBar::no_length() };
        if let Ok(style) = ProgressStyle::with_template("{prefix} [{bar:32}] {percent}% {eta} {wide_msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(what.to_owned());
        Self(bar)
    }

    /// `done` of `total`; false once the user wants to stop.
    pub fn step(&self, done: usize, total: usize) -> bool {
        self.0.set_length(total as u64);
        self.0.set_position(done as u64);
        if done == total {
            self.0.finish_and_clear();
        }
        open::interrupts() == 0
    }
}

impl Bar {
    /// Takes the bar off the screen.
    pub fn clear(&self) {
        self.0.finish_and_clear();
    }
}

impl Progress for Bar {
    fn at(&self, done: u64, total: u64, what: &str) {
        self.0.set_length(total);
        self.0.set_position(done);
        self.0.set_message(what.to_owned());
        if done == total {
            self.0.finish_and_clear();
        }
    }

    fn stop(&self) -> bool {
        open::interrupts() > 0
    }
}
