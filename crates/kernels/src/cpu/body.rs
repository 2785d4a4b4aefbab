//! The inner loops as plain Rust over fixed arrays of lanes, inlined into functions of each instruction set.
//!
//! `FUSED` says whether the instruction set multiplies and adds in one step; without it `mul_add` would be a call.

/// Lanes that a sum is spread over: enough for four vectors of eight.
const LANES: usize = 32;

#[inline(always)]
fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// Σ xᵢ yᵢ over 32 lanes, which are then added pairwise.
#[inline(always)]
pub(crate) fn dot<const FUSED: bool>(x: &[f32], y: &[f32]) -> f32 {
    assert_eq!(x.len(), y.len(), "a dot product of equal lengths");
    let mut lanes = [0.0f32; LANES];
    let (x, y) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (x, y) in x.0.iter().zip(y.0) {
        for ((lane, x), y) in lanes.iter_mut().zip(x).zip(y) {
            *lane = multiply_add::<FUSED>(*x, *y, *lane);
        }
    }
    for ((lane, x), y) in lanes.iter_mut().zip(x.1).zip(y.1) {
        *lane = multiply_add::<FUSED>(*x, *y, *lane);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// y += a x.
#[inline(always)]
pub(crate) fn add_scaled<const FUSED: bool>(a: f32, x: &[f32], y: &mut [f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = multiply_add::<FUSED>(a, *x, *y);
    }
}
