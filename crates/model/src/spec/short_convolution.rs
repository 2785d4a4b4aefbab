//! The descriptions of causal convolutions.

use super::Slot;

/// The weights of a causal convolution, in which each channel has its own weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvolutionSlot {
    /// Full GGUF tensor name.
    pub name: String,
    /// The number of channels.
    pub channels: usize,
    /// The number of tokens that a result depends on.
    pub kernel: usize,
}

impl ConvolutionSlot {
    /// The weight's dimensions, outermost first: channels, tokens. The last token is the current one.
    pub fn dimensions(&self) -> Vec<usize> {
        vec![self.channels, self.kernel]
    }

    /// The number of floats of the last inputs that later results depend on.
    pub(crate) fn state_length(&self) -> usize {
        (self.kernel - 1) * self.channels
    }
}

/// A gated short convolution: a recurrent layer whose state is its last inputs.
///
/// The rows of `input` x are three parts of the hidden size: b, c and v. The result is `output` (c · convolution(b · v)).
/// Source: `transformers`' `models/lfm2`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShortConvolution {
    /// The three parts, in this order.
    pub input: Slot,
    /// The convolution of b · v.
    pub convolution: ConvolutionSlot,
    /// The output projection.
    pub output: Slot,
}
