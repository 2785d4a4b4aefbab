//! Lattices with a minimum: `x = d · code + m`, codes 0 to 15 or 31, evaluated in `f32`.
//!
//! Only differences tell of the step. With the codes known up to a constant, each value confines d and m to a strip;
//! numbers of `f16` are looked for where the strips meet.

use super::exactness::{ARITHMETIC, Judge, NEAR_LEVELS, NEAR_TOLERANCE, nearest};
use super::scaled::distinct;
use super::span::Span;
use half::f16;

/// Lowest and highest of `x`.
pub(super) fn range(x: &[f32]) -> (f32, f32) {
    x.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &x| {
        (if x < low { x } else { low }, if x > high { x } else { high })
    })
}

/// Numbers of steps from `low` to `high` under which every value may lie on a step, the most steps first.
pub(super) fn fits(x: &[f32], (low, high): (f32, f32), last: u8, judge: Judge) -> impl Iterator<Item = u8> {
    let width = high - low;
    (1..=last).rev().filter(move |&steps| {
        let tolerance = tolerance((low, high), steps, last, judge);
        let factor = f32::from(steps) / width;
        let lies_on = |x: f32| {
            let t = (x - low) * factor;
            (t - nearest(t)).abs() <= tolerance
        };
        tolerance < 0.5 && x.iter().all(|&x| lies_on(x))
    })
}

/// How far off a step a value may seem. It may have been rounded, and so may have the ends that it lies between.
fn tolerance((low, high): (f32, f32), steps: u8, last: u8, judge: Judge) -> f32 {
    let slack = judge.slack(low.abs().max(high.abs()));
    let blur = 2.0 * slack * f32::from(steps) / (high - low) + f32::from(last) * ARITHMETIC;
    match judge {
        Judge::F32 => blur.max(NEAR_TOLERANCE),
        Judge::Near => NEAR_TOLERANCE,
        Judge::F16 | Judge::Bf16 => blur,
    }
}

/// Whether the type's own steps may be as long as the lattice's, so that differences no longer tell codes.
fn is_blurred(ends: (f32, f32), last: u8, judge: Judge) -> bool {
    tolerance(ends, last, last, judge) >= 0.5
}

/// Whether an `f32` block may lie on any lattice.
pub(super) fn may_lie(x: &[f32], last: u8) -> bool {
    let ends = range(x);
    // One value fits everything, and is soon found.
    ends.0 == ends.1 || fits(x, ends, last, Judge::F32).next().is_some() || is_blurred(ends, last, Judge::F32)
}

/// The whole number of steps of each value above `low`, into `codes`.
pub(super) fn count(x: &[f32], (low, high): (f32, f32), steps: u8, codes: &mut [u8]) {
    let factor = f32::from(steps) / (high - low);
    codes.iter_mut().zip(x).for_each(|(code, x)| *code = nearest((x - low) * factor) as u8);
}

/// Steps that explain every distance from the lowest value.
pub(super) fn step(x: &[f32], codes: &[u8], low: f32, judge: Judge) -> Span {
    let strip = |x: f32, code: u8| judge.span(x).less(judge.span(low)).over(f64::from(code));
    let strips = x.iter().zip(codes).filter(|(_, code)| **code > 0).map(|(&x, &code)| strip(x, code));
    strips.fold(Span::ALL, Span::meet)
}

/// Values that code 0 may have under steps of length `d`.
pub(super) fn base(x: &[f32], codes: &[u8], d: f32, judge: Judge) -> Span {
    let strip = |x: f32, code: u8| judge.span(x).less(Span::of(f64::from(d) * f64::from(code)));
    x.iter().zip(codes).map(|(&x, &code)| strip(x, code)).fold(Span::ALL, Span::meet)
}

/// `d` and `m` of `x`, and its codes.
pub(super) fn solve(x: &[f32], last: u8, judge: Judge, codes: &mut [u8]) -> Option<(f32, f32)> {
    let ends = range(x);
    if ends.0 == ends.1 {
        let (code, d, m) = flat(ends.0, last, judge)?;
        codes.fill(code);
        return Some((d, m));
    }
    let found = fits(x, ends, last, judge).find_map(|steps| {
        count(x, ends, steps, codes);
        if judge == Judge::Near && distinct(codes) < NEAR_LEVELS {
            return None;
        }
        // A scale that is no f16 becomes the nearest; otherwise any serves that is exact.
        let scales = match judge {
            Judge::Near => Span::of(f16::from_f32((ends.1 - ends.0) / f32::from(steps)).to_f64()),
            _ => step(x, codes, ends.0, judge),
        };
        let (shift, d, m) = scales.halves().find_map(|d| shift(x, codes, d, last - steps, judge))?;
        codes.iter_mut().for_each(|code| *code += shift);
        Some((d, m))
    });
    found.or_else(|| if is_blurred(ends, last, judge) { try_all(x, ends, last, judge, codes) } else { None })
}

/// Tries each `d` and `m` that may have led to the lowest and highest value, up to [`TRIES`]. Slow, but such blocks are
/// rare: all their values lie close together and far from zero.
fn try_all(
    x: &[f32],
    (low, high): (f32, f32),
    last: u8,
    judge: Judge,
    codes: &mut [u8],
) -> Option<(f32, f32)> {
    let (lowest, highest) = (judge.span(low), judge.span(high));
    let mut encode = |d: f32, m: f32| {
        x.iter().zip(codes.iter_mut()).all(|(&x, code)| {
            *code = nearest((x - m) / d).clamp(0.0, f32::from(last)) as u8;
            judge.accepts(f32::from(*code) * d + m, x)
        })
    };
    let scales = (1..=last).rev().flat_map(|steps| {
        let scales = highest.less(lowest).over(f64::from(steps)).halves();
        scales.filter(|d| *d > 0.0).map(move |d| (steps, d))
    });
    let pairs = scales.flat_map(|(steps, d)| {
        let times = move |codes: u8| Span::of(f64::from(d) * f64::from(codes));
        let base = lowest.meet(highest.less(times(steps)));
        (0..=last - steps).flat_map(move |shift| base.less(times(shift)).halves().map(move |m| (d, m)))
    });
    pairs.take(TRIES).find(|&(d, m)| encode(d, m))
}

/// Bounds what a block that lies on no lattice may cost.
const TRIES: usize = 4096;

/// How far all codes must be raised, at most `most`, so that some `m` serves.
fn shift(x: &[f32], codes: &[u8], d: f32, most: u8, judge: Judge) -> Option<(u8, f32, f32)> {
    let base = base(x, codes, d, judge);
    if base.is_empty() || d <= 0.0 {
        return None;
    }
    (0..=most).find_map(|shift| {
        let serves =
            |m: f32| x.iter().zip(codes).all(|(&x, &code)| judge.accepts(f32::from(code + shift) * d + m, x));
        let m = base.less(Span::of(f64::from(d) * f64::from(shift))).halves().take(3).find(|&m| serves(m))?;
        Some((shift, d, m))
    })
}

/// One code for a single value: `m` alone if it is an `f16`, else the rest of it, of either sign, in `d · code`.
fn flat(x: f32, last: u8, judge: Judge) -> Option<(u8, f32, f32)> {
    if judge == Judge::Near {
        return None;
    }
    let split = |m: f32| {
        let rest = judge.span(x).less(Span::of(m.into()));
        (1..=last).find_map(|code| {
            let mut scales = rest.over(code.into()).halves();
            scales.find(|&d| judge.accepts(f32::from(code) * d + m, x)).map(|d| (code, d, m))
        })
    };
    // The f16 numbers next to the nearest one are tried as well.
    let (x64, wide) = (f64::from(x), f64::from(x.abs()) / 256.0);
    let near = Span { low: x64 - wide, high: x64 + wide };
    near.halves().find_map(|m| if judge.accepts(m, x) { Some((0, 0.0, m)) } else { split(m) })
}
