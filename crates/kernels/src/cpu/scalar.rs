//! The oracle: plain loops in a fixed order, on any processor.

use super::{Operations, body};

pub(crate) static OPERATIONS: Operations = Operations { name: "scalar", dot, add_scaled };

fn dot(x: &[f32], y: &[f32]) -> f32 {
    body::dot::<false>(x, y)
}

fn add_scaled(a: f32, x: &[f32], y: &mut [f32]) {
    body::add_scaled::<false>(a, x, y);
}
