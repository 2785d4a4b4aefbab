//! The loops over floats in plain Rust. The order of the additions is fixed.

use crate::cpu::codes::activations;
use crate::cpu::generic::lanes::Lanes;
use crate::cpu::generic::{attention_kernel, float_tile, loops, recurrent};
use crate::cpu::instruction_set::Loops;
use crate::view::View;
use crate::{ClampedSwiglu, KvFormat};
use half::f16;

/// The loops of [`super::SCALAR`].
pub(super) const LOOPS: Loops = Loops {
    dot,
    attention,
    add_few,
    read_lines,
    float_tile,
    round_int8: activations::round_int8,
    round_int16: activations::round_int16,
    round_with_outliers: activations::round_with_outliers,
    softmax,
    swiglu,
    swiglu_gradient,
    clamped_swiglu,
    clamped_swiglu_gradient,
    softcap,
    gelu,
    gelu_gradient,
    gelu_tanh,
    gelu_tanh_gradient,
    delta_tile: recurrent::delta_tile::<false>,
    convolve: recurrent::convolve::<false>,
};

fn dot(x: &[f32], y: &[f32]) -> f32 {
    loops::dot::<false>(x, y)
}

fn attention(
    format: KvFormat,
    rows: &mut attention_kernel::QueryRows,
    page: usize,
    keys: &[u8],
    values: &[u8],
) {
    attention_kernel::add_page(ArrayLanes, format, rows, page, keys, values);
}

fn read_lines(bytes: &[u8]) -> u64 {
    loops::read_lines(bytes, |_| {})
}

fn add_few(out: &mut [f32], stride: usize, a: &[f32], b: View<f32>) {
    loops::add_few::<false>(out, stride, a, b);
}

fn float_tile(float_type: float_tile::FloatType, panel: &[u8], x: View<f32>, out: &mut float_tile::Products) {
    float_tile::multiply(ArrayLanes, float_type, panel, x, out);
}

fn softmax(x: &mut [f32]) {
    let maximum = x.iter().fold(f32::NEG_INFINITY, |maximum, x| maximum.max(*x));
    let mut sum = 0.0;
    for x in x.iter_mut() {
        *x = (*x - maximum).exp();
        sum += *x;
    }
    x.iter_mut().for_each(|x| *x /= sum);
}

fn swiglu(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + (-*gate).exp()) * up;
    }
}

fn swiglu_gradient(gate: &mut [f32], up: &mut [f32], gradient: &[f32]) {
    for ((gate, up), gradient) in gate.iter_mut().zip(up).zip(gradient) {
        let sigmoid = 1.0 / (1.0 + (-*gate).exp());
        let slope = sigmoid * (1.0 + *gate * (1.0 - sigmoid));
        (*gate, *up) = (gradient * *up * slope, gradient * *gate * sigmoid);
    }
}

fn clamped_swiglu(gate: &mut [f32], up: &[f32], settings: ClampedSwiglu) {
    for (gate, up) in gate.iter_mut().zip(up) {
        let (clamped, up) = settings.clamp(*gate, *up);
        *gate = clamped / (1.0 + (-settings.alpha * clamped).exp()) * (up + 1.0);
    }
}

fn clamped_swiglu_gradient(gate: &mut [f32], up: &mut [f32], gradient: &[f32], settings: ClampedSwiglu) {
    for ((gate, up), gradient) in gate.iter_mut().zip(up).zip(gradient) {
        let (clamped_gate, clamped_up) = settings.clamp(*gate, *up);
        let (gate_moves, up_moves) = settings.moves(*gate, *up);
        let sigmoid = 1.0 / (1.0 + (-settings.alpha * clamped_gate).exp());
        let slope = sigmoid * (1.0 + settings.alpha * clamped_gate * (1.0 - sigmoid));
        *gate = gradient * (clamped_up + 1.0) * slope * gate_moves;
        *up = gradient * clamped_gate * sigmoid * up_moves;
    }
}

fn softcap(x: &mut [f32], cap: f32) {
    x.iter_mut().for_each(|x| *x = cap * (*x / cap).tanh());
}

/// Returns Φ(x), the distribution function of the standard normal distribution.
fn normal_distribution(x: f32) -> f32 {
    0.5 * libm::erfcf(-x * std::f32::consts::FRAC_1_SQRT_2)
}

fn gelu(x: &mut [f32]) {
    x.iter_mut().for_each(|x| *x *= normal_distribution(*x));
}

fn gelu_gradient(x: &mut [f32], gradient: &[f32]) {
    for (x, gradient) in x.iter_mut().zip(gradient) {
        let density = loops::LARGEST_DENSITY * (-0.5 * *x * *x).exp();
        *x = gradient * (normal_distribution(*x) + *x * density);
    }
}

fn gelu_tanh(x: &mut [f32]) {
    for x in x {
        let u = loops::GELU_SLOPE * (*x + loops::GELU_CUBE * x.powi(3));
        *x *= 0.5 * (1.0 + u.tanh());
    }
}

fn gelu_tanh_gradient(x: &mut [f32], gradient: &[f32]) {
    for (x, gradient) in x.iter_mut().zip(gradient) {
        let tanh = (loops::GELU_SLOPE * (*x + loops::GELU_CUBE * x.powi(3))).tanh();
        let slope = loops::GELU_SLOPE * (1.0 + 3.0 * loops::GELU_CUBE * *x * *x);
        *x = gradient * (0.5 * (1.0 + tanh) + 0.5 * *x * (1.0 - tanh * tanh) * slope);
    }
}

/// An implementation of [`Lanes`] with arrays instead of SIMD vectors.
#[derive(Clone, Copy)]
struct ArrayLanes;

impl Lanes for ArrayLanes {
    type Vector = [f32; 16];
    const FUSED: bool = false;
    const MAX_ROWS: usize = 4;
    const ACCUMULATORS: usize = 4;

    fn zero(self) -> [f32; 16] {
        [0.0; 16]
    }

    fn splat(self, x: f32) -> [f32; 16] {
        [x; 16]
    }

    fn load_array(self, floats: &[f32; 16]) -> [f32; 16] {
        *floats
    }

    fn to_array(self, a: [f32; 16]) -> [f32; 16] {
        a
    }

    fn load_f32(self, bytes: &[u8; 64]) -> [f32; 16] {
        let floats = bytes.as_chunks().0;
        std::array::from_fn(|i| f32::from_le_bytes(floats[i]))
    }

    fn load_f16(self, bytes: &[u8; 32]) -> [f32; 16] {
        let halves = bytes.as_chunks().0;
        std::array::from_fn(|i| f16::from_le_bytes(halves[i]).to_f32())
    }

    fn load_i8(self, codes: &[u8; 16]) -> [f32; 16] {
        codes.map(|code| f32::from(code.cast_signed()))
    }

    fn load_i4(self, codes: &[u8; 16], upper: bool) -> [f32; 16] {
        codes.map(|code| f32::from(if upper { code >> 4 } else { code & 15 }) - 8.0)
    }

    fn multiply(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| a[i] * b[i])
    }

    fn max(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| if b[i] > a[i] { b[i] } else { a[i] })
    }

    fn multiply_add(self, a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
}

impl float_tile::Tile for ArrayLanes {
    const MAX_ROWS: usize = 6;

    fn tile<const T: usize>(
        self,
        float_type: float_tile::FloatType,
        panel: &[u8],
        x: [&[f32]; T],
    ) -> [[f32; float_tile::ROWS]; T] {
        float_tile::plain(float_type, panel, x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_swiglu_and_gelu_equal_the_plain_loops() {
        for count in [1, 7, 32, 33, 1000] {
            let x: Vec<f32> = (0..count).map(|i| ((i * 7919) % 1013) as f32 / 30.0 - 17.0).collect();
            let (mut expected, mut found) = (x.clone(), x.clone());
            softmax(&mut expected);
            loops::softmax::<true>(&mut found);
            assert!(expected.iter().zip(&found).all(|(a, b)| (a - b).abs() < 1e-6), "{count}");
            let (mut expected, mut found) = (x.clone(), x.clone());
            swiglu(&mut expected, &x);
            loops::swiglu::<true>(&mut found, &x);
            assert!(expected.iter().zip(&found).all(|(a, b)| (a - b).abs() <= 1e-6 * a.abs()), "{count}");
            let settings = ClampedSwiglu { alpha: 1.702, limit: 7.0 };
            let (mut expected, mut found) = (x.clone(), x.clone());
            clamped_swiglu(&mut expected, &x, settings);
            loops::clamped_swiglu::<true>(&mut found, &x, settings);
            assert!(expected.iter().zip(&found).all(|(a, b)| (a - b).abs() <= 1e-6 * a.abs()), "{count}");
            let (mut expected, mut found) = (x.clone(), x.clone());
            softcap(&mut expected, 5.0);
            loops::softcap::<true>(&mut found, 5.0);
            assert!(expected.iter().zip(&found).all(|(a, b)| (a - b).abs() <= 2e-6), "{count}");
            let (mut expected, mut found) = (x.clone(), x.clone());
            gelu(&mut expected);
            loops::gelu::<true>(&mut found);
            assert!(
                expected.iter().zip(&found).all(|(a, b)| (a - b).abs() <= 1e-6 * (1.0 + a.abs())),
                "{count}"
            );
            let (mut expected, mut found) = (x.clone(), x.clone());
            gelu_gradient(&mut expected, &x);
            loops::gelu_gradient::<true>(&mut found, &x);
            assert!(
                expected.iter().zip(&found).all(|(a, b)| (a - b).abs() <= 1e-5 * (1.0 + a.abs())),
                "{count}"
            );
            let (mut expected, mut found) = (x.clone(), x.clone());
            gelu_tanh(&mut expected);
            loops::gelu_tanh::<true>(&mut found);
            assert!(expected.iter().zip(&found).all(|(a, b)| (a - b).abs() <= 1e-5), "{count}");
            let (mut expected, mut found) = (x.clone(), x.clone());
            gelu_tanh_gradient(&mut expected, &x);
            loops::gelu_tanh_gradient::<true>(&mut found, &x);
            assert!(
                expected.iter().zip(&found).all(|(a, b)| (a - b).abs() <= 1e-5 * (1.0 + a.abs())),
                "{count}"
            );
        }
    }
}
