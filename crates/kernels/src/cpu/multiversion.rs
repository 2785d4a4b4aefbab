//! Macros that compile the loops of `generic/` for an instruction set.

/// Defines `LOOPS` of the surrounding module, compiled for the processor features `$features`. `$lanes` is the SIMD
/// type for attention and float tiles.
macro_rules! multiversion {
    ($features:literal, $lanes:ident) => {
        $crate::cpu::multiversion::functions! { $features:
            dot(x: &[f32], y: &[f32]) -> f32 {
                loops::dot::<true>(x, y)
            }
            attention(format: $crate::KvFormat, rows: &mut attention_kernel::QueryRows, page: usize, keys: &[u8], values: &[u8]) {
                // SAFETY: this function is compiled for the features of `$lanes`, so its caller guarantees them.
                attention_kernel::add_page(unsafe { $lanes::new() }, format, rows, page, keys, values);
            }
            read_lines(bytes: &[u8]) -> u64 {
                loops::read_lines(bytes, |line| prefetch_codes(line, 64))
            }
            add_few(out: &mut [f32], stride: usize, a: &[f32], b: View<f32>) {
                loops::add_few::<true>(out, stride, a, b);
            }
            float_tile(float_type: float_tile::FloatType, panel: &[u8], x: View<f32>, out: &mut float_tile::Products) {
                // SAFETY: this function is compiled for the features of `$lanes`, so its caller guarantees them.
                float_tile::multiply(unsafe { $lanes::new() }, float_type, panel, x, out);
            }
            round_int8(x: &[f32], codes: activations::RowCodes) {
                activations::round_int8(x, codes);
            }
            round_int16(x: &[f32], codes: [activations::RowCodes; 2]) {
                activations::round_int16(x, codes);
            }
            round_with_outliers(x: &[f32], codes: activations::RowCodes, outliers: &mut [outliers::Outlier]) -> usize {
                activations::round_with_outliers(x, codes, outliers)
            }
            softmax(x: &mut [f32]) {
                loops::softmax::<true>(x);
            }
            swiglu(gate: &mut [f32], up: &[f32]) {
                loops::swiglu::<true>(gate, up);
            }
            swiglu_gradient(gate: &mut [f32], up: &mut [f32], gradient: &[f32]) {
                loops::swiglu_gradient::<true>(gate, up, gradient);
            }
            clamped_swiglu(gate: &mut [f32], up: &[f32], settings: $crate::ClampedSwiglu) {
                loops::clamped_swiglu::<true>(gate, up, settings);
            }
            clamped_swiglu_gradient(gate: &mut [f32], up: &mut [f32], gradient: &[f32], settings: $crate::ClampedSwiglu) {
                loops::clamped_swiglu_gradient::<true>(gate, up, gradient, settings);
            }
            softcap(x: &mut [f32], cap: f32) {
                loops::softcap::<true>(x, cap);
            }
            gelu(x: &mut [f32]) {
                loops::gelu::<true>(x);
            }
            gelu_gradient(x: &mut [f32], gradient: &[f32]) {
                loops::gelu_gradient::<true>(x, gradient);
            }
            gelu_tanh(x: &mut [f32]) {
                loops::gelu_tanh::<true>(x);
            }
            gelu_tanh_gradient(x: &mut [f32], gradient: &[f32]) {
                loops::gelu_tanh_gradient::<true>(x, gradient);
            }
            delta_tile(state: &mut [[f32; TILE]], token: &TileToken, out: &mut [f32; TILE]) {
                recurrent::delta_tile::<true>(state, token, out);
            }
            convolve(rows: &[f32], weights: &[&[f32]], silu: bool, out: &mut [f32]) {
                recurrent::convolve::<true>(rows, weights, silu, out);
            }
        }
    };
}

/// Defines functions that are compiled for the features `$features`, and the constant `LOOPS` that contains these
/// functions.
macro_rules! functions {
    ($features:literal: $($name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)? $body:block)*) => {
        $(#[target_feature(enable = $features)]
        fn $name($($argument: $type),*) $(-> $result)? $body)*

        /// The loops of this instruction set.
        pub(super) const LOOPS: $crate::cpu::instruction_set::Loops =
            $crate::cpu::instruction_set::Loops { $($name),* };
    };
}

pub(crate) use functions;
pub(crate) use multiversion;
