//! Scale search for one group, for solvers that choose the codes themselves ([`super::Grid::fit`]).
//!
//! A solver fits one group at a time. The lanes are therefore starting scales, not groups. Each start is refit by least
//! squares, weighted by the importance (uniform if there is none). The start with the least error wins. Unlike the
//! searches in `search`, these searches are not upstream's: they use only the importance as the weight, try both signs
//! of a scale, and return scales that the format can store.

use super::array;
use super::lanes::{Lanes, WIDTH};
use super::search;
use std::array::from_fn;

/// One group's values and the weights of their squared errors.
pub(super) struct Group<'a, const N: usize> {
    x: &'a [f32; N],
    weights: [f32; N],
}

impl<'a, const N: usize> Group<'a, N> {
    /// Creates a group. Panics if `x` or `importance` does not have `N` elements.
    pub fn new(x: &'a [f32], importance: Option<&[f32]>) -> Self {
        Self { x: array(x), weights: importance.map_or([1.0; N], |i| *array(i)) }
    }

    /// Iterates over the groups of a block, in order.
    pub fn all(x: &'a [f32], importance: Option<&'a [f32]>) -> impl Iterator<Item = Self> {
        (0..x.len() / N).map(move |g| {
            let range = g * N..(g + 1) * N;
            Self::new(&x[range.clone()], importance.map(|i| &i[range]))
        })
    }

    /// Iterates over the elements and their weights, each copied to all lanes.
    fn elements(&self) -> impl Iterator<Item = (Lanes, Lanes)> {
        self.x.iter().zip(&self.weights).map(|(&x, &w)| (Lanes::all(x), Lanes::all(w)))
    }

    /// Returns a scale for `x ≈ scale · level`. `level` returns the nearest level. Each of `starts` gives a starting
    /// scale: the one that maps the extreme to this level.
    pub fn scale(&self, starts: &[Lanes], level: impl Fn(Lanes) -> Lanes) -> f32 {
        let extreme = search::extreme(self.x);
        if extreme.abs() < search::ZERO_GROUP {
            return 0.0;
        }
        // If no start gives a finite result, the middle start without refit still has the right magnitude.
        let (mut best, mut scale) = (0.0, extreme / starts[0].0[WIDTH / 2]);
        for start in starts {
            let inverse = *start / Lanes::all(extreme);
            let (mut sum_lx, mut sum_l2) = (Lanes::ZERO, Lanes::ZERO);
            for (x, w) in self.elements() {
                let l = level(inverse * x);
                let weighted = w * l;
                sum_lx = sum_lx + weighted * x;
                sum_l2 = sum_l2 + weighted * l;
            }
            // `explained` is the part of the weighted sum of squares that the fit explains. The rest is the error.
            let refit = sum_lx / sum_l2;
            let explained = refit * sum_lx;
            for lane in 0..WIDTH {
                if explained.0[lane] > best {
                    (best, scale) = (explained.0[lane], refit.0[lane]);
                }
            }
        }
        scale
    }

    /// Computes the weighted squared error of `x ≈ scale · level(x / scale)`, with one scale per lane.
    pub fn error(&self, scale: Lanes, level: impl Fn(Lanes) -> Lanes) -> [f32; WIDTH] {
        let inverse = reciprocal(scale);
        let mut sum = Lanes::ZERO;
        for (x, w) in self.elements() {
            let difference = scale * level(inverse * x) - x;
            sum = sum + w * (difference * difference);
        }
        sum.0
    }

    /// Returns the integer scale in `low..=high` with the least error. `d` is the value of one integer step. The
    /// candidates are close to `scale`.
    pub fn stored_scale(
        &self,
        scale: f32,
        d: f32,
        low: i16,
        high: i16,
        level: impl Fn(Lanes) -> Lanes,
    ) -> i16 {
        if d == 0.0 {
            return 0;
        }
        let near = (scale / d) as i16;
        let candidates: [i16; WIDTH] = from_fn(|i| near.saturating_add(i as i16 - 4).clamp(low, high));
        let errors = self.error(Lanes(candidates.map(|s| d * f32::from(s))), level);
        candidates[index_of_least(&errors, 4)]
    }

    /// Returns `(scale, least)` for `x ≈ scale · l + least` with the code `l` in `0..=levels`. `least` can be above 0
    /// only if `allow_positive`.
    pub fn affine(&self, levels: f32, allow_positive: bool) -> (f32, f32) {
        let (mut low, high) = search::range(self.x);
        if !allow_positive && low > 0.0 {
            low = 0.0;
        }
        let range = high - low;
        if range <= 0.0 {
            return (0.0, low);
        }
        let (mut sum_w, mut sum_x) = (0.0f32, 0.0f32);
        for (&x, &w) in self.x.iter().zip(&self.weights) {
            sum_w += w;
            sum_x += w * x;
        }
        let (sum_w, sum_x) = (Lanes::all(sum_w), Lanes::all(sum_x));
        let (mut best, mut found) = (f32::INFINITY, (range / levels, low));
        let mut codes = [Lanes::ZERO; N];
        for first in [-0.8, 0.0, 0.8, -0.4] {
            // As in upstream, later starts use the least value of the best result so far.
            let (base, range) = (found.1, high - found.1);
            let starts = Lanes(from_fn(|i| (levels + first + 0.1 * i as f32) / range));
            let (mut sum_l, mut sum_l2, mut sum_xl) = (Lanes::ZERO, Lanes::ZERO, Lanes::ZERO);
            for ((x, w), code) in self.elements().zip(&mut codes) {
                let l = (starts * (x - Lanes::all(base))).nearest().clamp(0.0, levels);
                *code = l;
                let weighted = w * l;
                sum_l = sum_l + weighted;
                sum_l2 = sum_l2 + weighted * l;
                sum_xl = sum_xl + weighted * x;
            }
            let determinant = sum_w * sum_l2 - sum_l * sum_l;
            let mut least = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
            let mut scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
            if !allow_positive {
                let above = least.greater(Lanes::ZERO);
                (least, scale) = (above.select(Lanes::ZERO, least), above.select(sum_xl / sum_l2, scale));
            }
            let mut error = Lanes::ZERO;
            for ((x, w), code) in self.elements().zip(&codes) {
                let difference = scale * *code + least - x;
                error = error + w * (difference * difference);
            }
            for lane in 0..WIDTH {
                if error.0[lane] < best {
                    (best, found) = (error.0[lane], (scale.0[lane], least.0[lane]));
                }
            }
        }
        found
    }

    /// Returns the six-bit integer scale and minimum with the least error for codes in `0..=levels`. `d` and `dmin` are
    /// the values of one integer step. The candidates are close to `scale` and `-least`.
    pub fn stored_pair(&self, (scale, least): (f32, f32), d: f32, dmin: f32, levels: f32) -> (i16, i16) {
        const CANDIDATES: usize = 4;
        let near = |x: f32, unit: f32| {
            let near = if unit == 0.0 { 0 } else { (x / unit) as i16 };
            from_fn::<i16, CANDIDATES, _>(|i| near.saturating_add(i as i16 - 1).clamp(0, 63))
        };
        let (scales, mins) = (near(scale, d), near(-least, dmin));
        let (mut best, mut found) = (f32::INFINITY, (scales[1], mins[1]));
        for half in 0..2 {
            let pair = |i: usize| (scales[2 * half + i / CANDIDATES], mins[i % CANDIDATES]);
            let scale = Lanes(from_fn(|i| d * f32::from(pair(i).0)));
            let min = Lanes(from_fn(|i| dmin * f32::from(pair(i).1)));
            let inverse = reciprocal(scale);
            let mut error = Lanes::ZERO;
            for (x, w) in self.elements() {
                let l = ((x + min) * inverse).nearest().clamp(0.0, levels);
                let difference = scale * l - min - x;
                error = error + w * (difference * difference);
            }
            for lane in 0..WIDTH {
                if error.0[lane] < best {
                    (best, found) = (error.0[lane], pair(lane));
                }
            }
        }
        found
    }
}

/// Returns the starts of [`Group::scale`] for levels in `-half..half`.
pub(super) fn symmetric_starts(half: f32) -> [Lanes; 4] {
    from_fn(|row| match row {
        3 => Lanes(from_fn(|i| half - 1.4 + 0.1 * i as f32)),
        row => Lanes(from_fn(|i| -(half - 1.2 + 0.8 * row as f32 + 0.1 * i as f32))),
    })
}

/// Returns the function that rounds to the nearest level in `-half..half`.
#[inline(always)]
pub(super) fn symmetric_level(half: f32) -> impl Fn(Lanes) -> Lanes {
    move |x| x.nearest().clamp(-half, half - 1.0)
}

/// Computes 1 / x, or 0 for 0.
fn reciprocal(x: Lanes) -> Lanes {
    x.equal(Lanes::ZERO).select(Lanes::ZERO, Lanes::all(1.0) / x)
}

/// Returns the index of the least error; `default` if no error is finite.
pub(super) fn index_of_least(errors: &[f32; WIDTH], default: usize) -> usize {
    let (mut best, mut index) = (f32::INFINITY, default);
    for (i, &error) in errors.iter().enumerate() {
        if error < best {
            (best, index) = (error, i);
        }
    }
    index
}
