//! Scales of one group, for solvers that choose codes themselves ([`super::Grid::fit`]).
//!
//! A solver's group stands alone, so here the lanes are starting scales, not groups: each start is refit by least
//! squares under the importance given (uniform where none is), and the start with the least error wins. Unlike the
//! searches in `search`, these are ours: they weigh by importance alone, try both signs of a scale, and end on
//! scales that the format can store.

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
    /// Panics where there are not `N` values and as many weights.
    pub fn new(x: &'a [f32], importance: Option<&[f32]>) -> Self {
        Self { x: array(x), weights: importance.map_or([1.0; N], |i| *array(i)) }
    }

    /// The groups of a block, in order.
    pub fn all(x: &'a [f32], importance: Option<&'a [f32]>) -> impl Iterator<Item = Self> {
        (0..x.len() / N).map(move |g| {
            let range = g * N..(g + 1) * N;
            Self::new(&x[range.clone()], importance.map(|i| &i[range]))
        })
    }

    /// The group's elements and weights, each in all lanes.
    fn elements(&self) -> impl Iterator<Item = (Lanes, Lanes)> {
        self.x.iter().zip(&self.weights).map(|(&x, &w)| (Lanes::all(x), Lanes::all(w)))
    }

    /// A scale for `x ≈ scale · level`, where `level` gives the nearest level and `starts` are the levels that the
    /// extreme may stand at.
    pub fn scale(&self, starts: &[Lanes], level: impl Fn(Lanes) -> Lanes) -> f32 {
        let extreme = search::extreme(self.x);
        if extreme.abs() < search::ZERO_GROUP {
            return 0.0;
        }
        // Should no start give a number, the middle one as it stands says how large the group was.
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
            // What least squares explain; the rest is the error.
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

    /// The weighted squared error of `x ≈ scale · level(x / scale)`, one scale a lane.
    pub fn error(&self, scale: Lanes, level: impl Fn(Lanes) -> Lanes) -> [f32; WIDTH] {
        let inverse = reciprocal(scale);
        let mut sum = Lanes::ZERO;
        for (x, w) in self.elements() {
            let difference = scale * level(inverse * x) - x;
            sum = sum + w * (difference * difference);
        }
        sum.0
    }

    /// The integer scale of `low..=high` under the unit `d`, near `scale`, that gives the least error.
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
        candidates[least(&errors, 4)]
    }

    /// Scale and value of code 0 for `x ≈ scale · l + least`, `l` in `0..=levels`; `least` is above 0 only where
    /// `free`.
    pub fn affine(&self, levels: f32, free: bool) -> (f32, f32) {
        let (mut low, high) = search::range(self.x);
        if !free && low > 0.0 {
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
            // As upstream, later starts are measured from the least value found so far.
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
            if !free {
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

    /// The six-bit scale and minimum under the units `d` and `dmin`, near `scale` and `-least`, that give the least
    /// error with codes `0..=levels`.
    pub fn stored_pair(&self, (scale, least): (f32, f32), d: f32, dmin: f32, levels: f32) -> (i16, i16) {
        const SIDE: usize = 4;
        let near = |x: f32, unit: f32| {
            let near = if unit == 0.0 { 0 } else { (x / unit) as i16 };
            from_fn::<i16, SIDE, _>(|i| near.saturating_add(i as i16 - 1).clamp(0, 63))
        };
        let (scales, mins) = (near(scale, d), near(-least, dmin));
        let (mut best, mut found) = (f32::INFINITY, (scales[1], mins[1]));
        for half in 0..2 {
            let pair = |i: usize| (scales[2 * half + i / SIDE], mins[i % SIDE]);
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

/// The levels that [`Group::scale`] lets the extreme of a group stand at, for codes `-half..half`.
pub(super) fn symmetric_starts(half: f32) -> [Lanes; 4] {
    from_fn(|row| match row {
        3 => Lanes(from_fn(|i| half - 1.4 + 0.1 * i as f32)),
        row => Lanes(from_fn(|i| -(half - 1.2 + 0.8 * row as f32 + 0.1 * i as f32))),
    })
}

/// The nearest of the levels `-half..half`.
#[inline(always)]
pub(super) fn symmetric_level(half: f32) -> impl Fn(Lanes) -> Lanes {
    move |x| x.nearest().clamp(-half, half - 1.0)
}

/// 1 / x, but 0 for 0.
fn reciprocal(x: Lanes) -> Lanes {
    x.equal(Lanes::ZERO).select(Lanes::ZERO, Lanes::all(1.0) / x)
}

/// Where the least error stands; `otherwise` where none is a number.
pub(super) fn least(errors: &[f32; WIDTH], otherwise: usize) -> usize {
    let (mut best, mut at) = (f32::INFINITY, otherwise);
    for (i, &error) in errors.iter().enumerate() {
        if error < best {
            (best, at) = (error, i);
        }
    }
    at
}
