//! Lattices through zero: `x = d · level(code)`, levels being whole numbers from −128 to 127.

use super::exactness::{Judge, NEAR_LEVELS, nearest};
use kvant_core::{Grid, Levels};

/// A format's levels, so laid out that a number's level and code are looked up.
pub(super) struct Scaled {
    /// The level nearest to each whole number from −128 to 128.
    level: [i8; 257],
    /// The code of the level nearest to each.
    code: [u8; 257],
    /// What level the value of largest magnitude may have if it is positive, or negative; the largest level first.
    /// Negative scales stand in only where the mirrored level does not exist.
    tries: [Vec<f32>; 2],
}

impl Scaled {
    pub fn new(levels: &Levels) -> Self {
        let all: Vec<f32> = (0..levels.count()).map(|code| levels.level(code as u8)).collect();
        let tries = [1.0, -1.0].map(|sign| {
            let serves = |level: f32| level * sign > 0.0 || level != 0.0 && !all.contains(&-level);
            let mut tries: Vec<f32> = all.iter().copied().filter(|&level| serves(level)).collect();
            tries.sort_by(|a, b| b.abs().total_cmp(&a.abs()));
            tries
        });
        let code = std::array::from_fn(|i| levels.nearest(i as f32 - 128.0));
        Self { level: code.map(|code| levels.level(code) as i8), code, tries }
    }

    /// Where `t` is found in the tables; somewhere for what is not a number.
    #[inline(always)]
    fn index(t: f32) -> usize {
        (nearest(t) as i32 + 128).clamp(0, 256) as usize
    }

    /// The level nearest to `t`.
    #[inline(always)]
    pub fn level(&self, t: f32) -> f32 {
        f32::from(self.level[Self::index(t)])
    }

    /// Levels of `most` under which every value may lie on a level, the largest first. `ends` of `x` as [`ends`] finds
    /// them.
    pub fn fits<'a>(
        &'a self,
        x: &'a [f32],
        (least, most): (f32, f32),
        judge: Judge,
    ) -> impl Iterator<Item = f32> + 'a {
        let inverse = 1.0 / most;
        let tolerance = judge.tolerance();
        self.tries[usize::from(most < 0.0)].iter().copied().filter(move |level| {
            let factor = level * inverse;
            let fixed = tolerance.fixed + tolerance.absolute * factor.abs();
            let lies_on = |x: f32| {
                let t = x * factor;
                (t - self.level(t)).abs() <= t.abs() * tolerance.relative + fixed
            };
            // The least one is a whole number by chance the least often.
            lies_on(least) && x.iter().all(|&x| lies_on(x))
        })
    }

    /// The codes of `x` under `scale`, if the judge accepts them all.
    pub fn encode(&self, x: &[f32], scale: f32, judge: Judge, codes: &mut [u8]) -> bool {
        let inverse = 1.0 / scale;
        x.iter().zip(codes).all(|(&x, code)| {
            let at = Self::index(x * inverse);
            *code = self.code[at];
            judge.accepts(f32::from(self.level[at]) * scale, x)
        })
    }

    /// The scale of `x`, not all of them zero, and its codes.
    pub fn solve(&self, x: &[f32], judge: Judge, grid: &dyn Grid, codes: &mut [u8]) -> Option<f32> {
        let ends = ends(x);
        self.fits(x, ends, judge).find_map(|level| {
            let span = judge.span(ends.1).over(level.into());
            // A format that stores powers of two has at most one in so short a span.
            let nearest = grid.stored(span.middle() as f32);
            let found = std::iter::once(nearest)
                .chain(span.halves().filter(|&scale| grid.stored(scale) == scale))
                .find(|&scale| self.encode(x, scale, judge, codes))?;
            (judge != Judge::Near || distinct(codes) >= NEAR_LEVELS).then_some(found)
        })
    }
}

/// The values of least and largest magnitude that are not zero; `x` holds one.
pub(super) fn ends(x: &[f32]) -> (f32, f32) {
    x.iter().fold((f32::INFINITY, 0.0), |(least, most), &x| {
        (
            if x != 0.0 && x.abs() < f32::abs(least) { x } else { least },
            if x.abs() > f32::abs(most) { x } else { most },
        )
    })
}

/// How many different codes there are.
pub(super) fn distinct(codes: &[u8]) -> u32 {
    let seen = codes.iter().fold([0u128; 2], |mut seen, &code| {
        seen[usize::from(code >> 7)] |= 1 << (code & 127);
        seen
    });
    seen[0].count_ones() + seen[1].count_ones()
}
