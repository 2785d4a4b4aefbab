//! The encoder of `q4_k` and `q5_k`: it chooses scales, minima and codes.
//!
//! ```text
//! scale and minimum of each group of 32: by `search::affine`; weight of the squared error
//!     without importance: rms(group) + |x|
//!     with importance:    importance · sqrt(2 · mean square of the block + x²)
//! d, dmin and the 6-bit integers
//!     without importance: the largest of the eight groups becomes 63
//!     with importance:    by `search::positive`
//! codes: rounded to nearest with the stored scales and minima
//! ```
//!
//! Source: `quantize_row_q4_K_ref`, `quantize_row_q4_K_impl` and the same functions for `q5_K`. The two formats differ
//! only in the number of codes and in the starting scales.

use super::fit::Group;
use super::k_scales::Scales;
use super::lanes::{Lanes, codes_from_lanes, map_lanes, to_lanes};
use super::search::{
    self, Affine, StartingScales, WITH_IMPORTANCE, affine, nearest, positive, sum_of_squares,
};
use super::{Part, importance_at, stored_f16};
use crate::Codes;

/// The encoder, with the constants in which the two formats differ.
pub(super) struct KAffine {
    /// The largest code.
    pub levels: f32,
    /// Starting scales of the search without importance.
    pub starts: StartingScales,
}

impl KAffine {
    /// Encodes whole rows. It writes bytes 0 to 16 of each block (`d`, `dmin` and scales); `pack_codes` writes the rest.
    pub fn encode<const B: usize>(
        &self,
        rows: &[f32],
        importance: Option<&[f32]>,
        dst: &mut [u8],
        pack_codes: impl Fn(&[u8; 256], &mut [u8; B]),
    ) {
        for (index, (block, x)) in super::blocks_mut::<B, 256>(dst, rows).enumerate() {
            let (mut scales, found, transposed) = match importance_at(importance, index * 256, 256) {
                None => self.by_largest(x),
                Some(importance) => self.by_importance(x, importance),
            };
            scales.write(block);
            let mut codes = [0u8; 256];
            let mut as_searched = None;
            for (j, (codes, x)) in
                codes.as_chunks_mut::<32>().0.iter_mut().zip(x.as_chunks::<32>().0).enumerate()
            {
                let (scale, min) = scales.group(j);
                if scale == 0.0 {
                    // Each code has the value −min. Upstream keeps the codes of its search.
                    *codes = as_searched
                        .get_or_insert_with(|| codes_from_lanes(map_lanes(&transposed, |x| found.code(x))))
                        [j];
                    continue;
                }
                for (code, &x) in codes.iter_mut().zip(x) {
                    *code = nearest((x + min) / scale).clamp(0.0, self.levels) as u8;
                }
            }
            pack_codes(&codes, block);
        }
    }

    /// Encodes the scales without importance. Returns them with the result of the search and the transposed values.
    fn by_largest(&self, x: &[f32; 256]) -> (Scales, Affine, [Lanes; 32]) {
        let transposed = to_lanes::<32>(x);
        let squares = transposed.iter().fold(Lanes::ZERO, |sum, &x| sum + x * x);
        let root = (squares * Lanes::all(1.0 / 32.0)).sqrt();
        let found =
            affine(self.levels, &transposed, &map_lanes(&transposed, |x| root + x.abs()), self.starts);
        let (scales, mins) = (found.scale.0, (-found.least).0);
        let largest =
            |x: &[f32; 8]| x.iter().fold(0.0f32, |largest, &x| if x > largest { x } else { largest });
        let six_bits = |x: [f32; 8], largest: f32| {
            let inverse = if largest > 0.0 { 63.0 / largest } else { 0.0 };
            x.map(|x| nearest(inverse * x).clamp(0.0, 63.0) as u8)
        };
        let (scale, min) = (largest(&scales), largest(&mins));
        let stored = Scales {
            d: scale / 63.0,
            dmin: min / 63.0,
            scales: six_bits(scales, scale),
            mins: six_bits(mins, min),
        };
        (stored, found, transposed)
    }

    /// Like [`KAffine::by_largest`], with importance.
    fn by_importance(&self, x: &[f32; 256], importance: &[f32]) -> (Scales, Affine, [Lanes; 32]) {
        let transposed = to_lanes::<32>(x);
        let spread = Lanes::all(2.0 * sum_of_squares(x) / 256.0);
        let weights = search::weights(&transposed, &to_lanes(importance), spread);
        let found = affine(self.levels, &transposed, &weights, WITH_IMPORTANCE);
        let group_weights = weights.iter().fold(Lanes::ZERO, |sum, &w| sum + w).0;
        let (d, scales) = positive(63.0, &found.scale.0, &group_weights);
        let (dmin, mins) = positive(63.0, &(-found.least).0, &group_weights);
        (Scales { d, dmin, scales, mins }, found, transposed)
    }

    /// [`super::Grid::fit`] of both formats.
    pub fn fit(&self, x: &[f32], importance: Option<&[f32]>, part: Part, codes: &mut Codes) {
        match part {
            Part::Block => {
                let (mut scale, mut min) = (0.0f32, 0.0f32);
                for group in Group::<32>::all(x, importance) {
                    let (group_scale, least) = group.affine(self.levels, false);
                    scale = scale.max(group_scale);
                    min = min.max(-least);
                }
                (codes.d, codes.dmin) = (stored_f16(scale / 63.0), stored_f16(min / 63.0));
            }
            Part::Group(j) => {
                let group = Group::<32>::new(x, importance);
                let found = group.affine(self.levels, false);
                (codes.scales[j], codes.mins[j]) = group.stored_pair(found, codes.d, codes.dmin, self.levels);
            }
        }
    }
}
