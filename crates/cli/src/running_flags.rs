//! The flags for running a network.

use crate::values::{ACTIVATIONS, KV, one_of};
use clap::Args;
use kvant::RunSettings;
use kvant::kernels::{Arithmetic, KvFormat};

/// Flags for the arithmetic and the KV cache of a network.
#[derive(Args)]
pub struct RunningFlags {
    /// Activations are rounded to: int8-outliers (8 bits, outliers exact; the default), int16, int8 (fastest), f32 (not at all; slowest)
    #[arg(long, value_parser = one_of(ACTIVATIONS), hide_possible_values = true)]
    pub activations: Option<Arithmetic>,
    /// Keys and values of earlier tokens are kept in: f32, f16, q8_0, q4_0
    #[arg(long, value_parser = one_of(KV), default_value = "f16", hide_possible_values = true)]
    pub kv: KvFormat,
}

impl RunningFlags {
    /// Returns the settings that the flags give.
    pub fn settings(&self) -> RunSettings {
        RunSettings { arithmetic: self.activations, kv: self.kv }
    }
}
