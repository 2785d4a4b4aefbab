//! The oracle: plain loops in a fixed order, on any processor.

use super::{Operations, Take, body};

pub(crate) static OPERATIONS: Operations =
    Operations { name: "scalar", dot, add_scaled, tiles, softmax, swiglu };

fn dot(x: &[f32], y: &[f32]) -> f32 {
    body::dot::<false>(x, y)
}

fn add_scaled(a: f32, x: &[f32], y: &mut [f32]) {
    body::add_scaled::<false>(a, x, y);
}

fn tiles(columns: usize, w: &[f32], x: &[f32], out: Take) {
    body::tiles::<false, Plain>(columns, w, x, out);
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

struct Plain;

impl body::Tiles for Plain {
    fn tile<const W: usize, const X: usize>(columns: usize, w: &[f32], x: &[f32]) -> body::Tile<W, X> {
        body::tile(columns, w, x)
    }
}
