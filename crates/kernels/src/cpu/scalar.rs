//! The oracle: plain loops in a fixed order, on any processor.

use super::{Operations, Take, body};

pub(crate) static OPERATIONS: Operations = Operations { name: "scalar", dot, add_scaled, tiles };

fn dot(x: &[f32], y: &[f32]) -> f32 {
    body::dot::<false>(x, y)
}

fn add_scaled(a: f32, x: &[f32], y: &mut [f32]) {
    body::add_scaled::<false>(a, x, y);
}

fn tiles(columns: usize, w: &[f32], x: &[f32], out: Take) {
    body::tiles::<false, Plain>(columns, w, x, out);
}

struct Plain;

impl body::Tiles for Plain {
    fn tile<const W: usize, const X: usize>(columns: usize, w: &[f32], x: &[f32]) -> body::Tile<W, X> {
        body::tile(columns, w, x)
    }
}
