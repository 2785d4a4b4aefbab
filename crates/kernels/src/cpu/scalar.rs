//! The oracle: plain loops in a fixed order, on any processor.

use super::{Operations, attend, body, floats, panels};
use crate::KvFormat;
use crate::dense::View;
use half::f16;

pub(crate) static OPERATIONS: Operations = Operations {
    name: "scalar",
    dot,
    attend,
    read,
    add_few,
    panel,
    round,
    round_twice,
    round_rest,
    softmax,
    swiglu,
    swiglu_back,
    gelu_tanh,
    gelu_tanh_back,
};

fn dot(x: &[f32], y: &[f32]) -> f32 {
    body::dot::<false>(x, y)
}

fn attend(format: KvFormat, rows: &mut attend::Rows, page: usize, keys: &[u8], values: &[u8]) {
    attend::dispatch::<Plain>(format, rows, page, keys, values);
}

fn read(bytes: &[u8]) -> u64 {
    body::read(bytes, |_| {})
}

fn add_few(out: &mut [f32], stride: usize, a: &[f32], b: View<f32>) {
    body::add_few::<false>(out, stride, a, b);
}

fn panel(width: floats::Width, panel: &[u8], x: View<f32>, out: &mut floats::Products) {
    floats::multiply::<Plain>(width, panel, x, out);
}

fn softmax(x: &mut [f32]) {
    let top = x.iter().fold(f32::NEG_INFINITY, |top, x| top.max(*x));
    let mut sum = 0.0;
    for x in x.iter_mut() {
        *x = (*x - top).exp();
        sum += *x;
    }
    x.iter_mut().for_each(|x| *x /= sum);
}

fn swiglu(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + (-*gate).exp()) * up;
    }
}

fn swiglu_back(gate: &mut [f32], up: &mut [f32], gradient: &[f32]) {
    for ((gate, up), gradient) in gate.iter_mut().zip(up).zip(gradient) {
        let sigmoid = 1.0 / (1.0 + (-*gate).exp());
        let slope = sigmoid * (1.0 + *gate * (1.0 - sigmoid));
        (*gate, *up) = (gradient * *up * slope, gradient * *gate * sigmoid);
    }
}

fn gelu_tanh(x: &mut [f32]) {
    for x in x {
        let u = body::GELU_SLOPE * (*x + body::GELU_CUBE * x.powi(3));
        *x *= 0.5 * (1.0 + u.tanh());
    }
}

fn gelu_tanh_back(x: &mut [f32], gradient: &[f32]) {
    for (x, gradient) in x.iter_mut().zip(gradient) {
        let tanh = (body::GELU_SLOPE * (*x + body::GELU_CUBE * x.powi(3))).tanh();
        let slope = body::GELU_SLOPE * (1.0 + 3.0 * body::GELU_CUBE * *x * *x);
        *x = gradient * (0.5 * (1.0 + tanh) + 0.5 * *x * (1.0 - tanh * tanh) * slope);
    }
}

fn round(x: &[f32], codes: panels::RowCodes) {
    panels::round(x, codes);
}

fn round_twice(x: &[f32], codes: [panels::RowCodes; 2]) {
    panels::round_twice(x, codes);
}

fn round_rest(x: &[f32], codes: panels::RowCodes, outliers: &mut [panels::Outlier]) -> usize {
    panels::round_rest(x, codes, outliers)
}

struct Plain;

impl attend::Lanes for Plain {
    type Sixteen = [f32; 16];
    const FUSED: bool = false;
    const TOGETHER: usize = 4;
    const SUMS: usize = 4;

    fn zero() -> [f32; 16] {
        [0.0; 16]
    }

    fn splat(x: f32) -> [f32; 16] {
        [x; 16]
    }

    fn load(numbers: &[f32; 16]) -> [f32; 16] {
        *numbers
    }

    fn store(a: [f32; 16]) -> [f32; 16] {
        a
    }

    fn floats(bytes: &[u8; 64]) -> [f32; 16] {
        let numbers = bytes.as_chunks().0;
        std::array::from_fn(|i| f32::from_le_bytes(numbers[i]))
    }

    fn halves(bytes: &[u8; 32]) -> [f32; 16] {
        let halves = bytes.as_chunks().0;
        std::array::from_fn(|i| f16::from_le_bytes(halves[i]).to_f32())
    }

    fn bytes(codes: &[u8; 16]) -> [f32; 16] {
        codes.map(|code| f32::from(code.cast_signed()))
    }

    fn nibbles(codes: &[u8; 16], upper: bool) -> [f32; 16] {
        codes.map(|code| f32::from(if upper { code >> 4 } else { code & 15 }) - 8.0)
    }

    fn multiply(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| a[i] * b[i])
    }

    fn higher(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| if b[i] > a[i] { b[i] } else { a[i] })
    }

    fn multiply_add(a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
}

impl floats::Tile for Plain {
    const TOGETHER: usize = 6;

    fn tile<const T: usize>(width: floats::Width, panel: &[u8], x: [&[f32]; T]) -> [[f32; floats::ROWS]; T] {
        floats::plain(width, panel, x)
    }
}
