//! The settings of the clamped SwiGLU, and its clamps.

/// The numbers of the clamped SwiGLU of gpt-oss.
///
/// The result for a gate g and a number u is g' · sigmoid(`alpha` g') · (u' + 1), where g' = min(g, `limit`), and u' is u,
/// clamped to the range from −`limit` to `limit`. Source: OpenAI, gpt-oss-120b & gpt-oss-20b Model Card, arXiv
/// 2508.10925, section 2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClampedSwiglu {
    /// Factor of the gate inside the sigmoid function.
    pub alpha: f32,
    /// The largest gate, and the largest magnitude of the other number. Above 0.
    pub limit: f32,
}

impl ClampedSwiglu {
    /// Returns the clamped gate and the clamped number.
    #[inline(always)]
    pub(crate) fn clamp(self, gate: f32, up: f32) -> (f32, f32) {
        let below = |x: f32| if x > self.limit { self.limit } else { x };
        let up = below(up);
        (below(gate), if up < -self.limit { -self.limit } else { up })
    }

    /// Returns the derivatives of the clamped gate and of the clamped number: 1 within the limits, 0 beyond.
    #[inline(always)]
    pub(crate) fn moves(self, gate: f32, up: f32) -> (f32, f32) {
        let within = |inside| if inside { 1.0 } else { 0.0 };
        (within(gate <= self.limit), within(up.abs() <= self.limit))
    }
}
