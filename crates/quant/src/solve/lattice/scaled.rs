//! Lattices without a minimum: `x = d · level(code)`, where `x` is a value, `d` is the block's scale, and the levels
//! are integers from −128 to 127.

use super::exactness::{Judge, MIN_NEAR_LEVELS, nearest};
use kvant_core::{Grid, Levels};

/// The levels of a format, in tables that give the level and the code nearest to a value.
pub(super) struct LevelTable {
    /// The level nearest to each integer from −128 to 128, inclusive. The index is the integer plus 128.
    level: [i8; 257],
    /// The code of the level at the same index.
    code: [u8; 257],
    /// The levels that the value of largest magnitude may have, the largest magnitude first. The first list is for a
    /// positive value, the second for a negative one. A level of the other sign (a negative scale) is in a list only if
    /// its negative is not a level.
    extreme_levels: [Vec<f32>; 2],
}

impl LevelTable {
    /// Creates the tables of the levels `levels`.
    pub fn new(levels: &Levels) -> Self {
        let all: Vec<f32> = (0..levels.count()).map(|code| levels.level(code as u8)).collect();
        let extreme_levels = [1.0, -1.0].map(|sign| {
            let is_possible = |level: f32| level * sign > 0.0 || level != 0.0 && !all.contains(&-level);
            let mut levels: Vec<f32> = all.iter().copied().filter(|&level| is_possible(level)).collect();
            levels.sort_by(|a, b| b.abs().total_cmp(&a.abs()));
            levels
        });
        let code = std::array::from_fn(|i| levels.nearest(i as f32 - 128.0));
        Self { level: code.map(|code| levels.level(code) as i8), code, extreme_levels }
    }

    /// Returns the index of `t` in the tables. Returns some valid index for NaN.
    #[inline(always)]
    fn index(t: f32) -> usize {
        (nearest(t) as i32 + 128).clamp(0, 256) as usize
    }

    /// Returns the level nearest to `t`.
    #[inline(always)]
    pub fn level(&self, t: f32) -> f32 {
        f32::from(self.level[Self::index(t)])
    }

    /// Returns the levels that `most` may have, the largest magnitude first. With such a level, every value of `x` is
    /// within the tolerance of a level. `least` and `most` are the [`ends`] of `x`.
    pub fn fits<'a>(
        &'a self,
        x: &'a [f32],
        (least, most): (f32, f32),
        judge: Judge,
    ) -> impl Iterator<Item = f32> + 'a {
        let inverse = 1.0 / most;
        let tolerance = judge.tolerance();
        self.extreme_levels[usize::from(most < 0.0)].iter().copied().filter(move |level| {
            let factor = level * inverse;
            let fixed = tolerance.fixed + tolerance.absolute * factor.abs();
            let lies_on = |x: f32| {
                let t = x * factor;
                (t - self.level(t)).abs() <= t.abs() * tolerance.relative + fixed
            };
            // `least` is checked first, because it is on a level by chance less often than other values.
            lies_on(least) && x.iter().all(|&x| lies_on(x))
        })
    }

    /// Writes the codes of `x` under `scale`. Returns true if the judge accepts all values. After a rejected value, the
    /// other codes are not written.
    pub fn encode(&self, x: &[f32], scale: f32, judge: Judge, codes: &mut [u8]) -> bool {
        let inverse = 1.0 / scale;
        x.iter().zip(codes).all(|(&x, code)| {
            let at = Self::index(x * inverse);
            *code = self.code[at];
            judge.accepts(f32::from(self.level[at]) * scale, x)
        })
    }

    /// Returns the scale of `x` and writes its codes, or returns `None` if `x` is not on a lattice. `x` must have a
    /// nonzero value.
    pub fn solve(&self, x: &[f32], judge: Judge, grid: &dyn Grid, codes: &mut [u8]) -> Option<f32> {
        let ends = ends(x);
        self.fits(x, ends, judge).find_map(|level| {
            let span = judge.span(ends.1).divided_by(level.into());
            // If a format stores only powers of two, such a short span contains at most one power of two.
            let nearest = grid.stored(span.middle() as f32);
            let found = std::iter::once(nearest)
                .chain(span.f16_values().filter(|&scale| grid.stored(scale) == scale))
                .find(|&scale| self.encode(x, scale, judge, codes))?;
            (judge != Judge::Near || distinct_count(codes) >= MIN_NEAR_LEVELS).then_some(found)
        })
    }
}

/// Returns the nonzero values of least and of largest magnitude. `x` must have a nonzero value.
pub(super) fn ends(x: &[f32]) -> (f32, f32) {
    x.iter().fold((f32::INFINITY, 0.0), |(least, most), &x| {
        (
            if x != 0.0 && x.abs() < f32::abs(least) { x } else { least },
            if x.abs() > f32::abs(most) { x } else { most },
        )
    })
}

/// Returns the number of distinct codes.
pub(super) fn distinct_count(codes: &[u8]) -> u32 {
    let seen = codes.iter().fold([0u128; 2], |mut seen, &code| {
        seen[usize::from(code >> 7)] |= 1 << (code & 127);
        seen
    });
    seen[0].count_ones() + seen[1].count_ones()
}
