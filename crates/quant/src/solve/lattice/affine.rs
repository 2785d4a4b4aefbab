//! Lattices with a minimum: `x = d · code + m`, computed in `f32`. `x` is a value, `d` is the block's scale, `m` is the
//! value of code 0, and the codes are from 0 to 15 or 31.
//!
//! The differences of values determine the step. The step determines the codes, up to a constant that is added to all
//! of them. Each value then limits `d` and `m` to a span. The `f16` values in the intersection of all spans are tried.

use super::exactness::{Judge, MIN_NEAR_LEVELS, NEAR_TOLERANCE, ROUNDING_ERROR, nearest};
use super::scaled::distinct_count;
use super::span::Span;
use half::f16;

/// Returns the lowest and the highest value of `x`.
pub(super) fn range(x: &[f32]) -> (f32, f32) {
    x.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &x| {
        (if x < low { x } else { low }, if x > high { x } else { high })
    })
}

/// Returns the possible numbers of steps from `low` to `high`, the largest number first. With such a number, every
/// value of `x` is within the tolerance of a step.
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

/// Returns the largest distance of a value from a step, in steps. The value and both ends may have been rounded.
fn tolerance((low, high): (f32, f32), steps: u8, last: u8, judge: Judge) -> f32 {
    let half_step = judge.half_step(low.abs().max(high.abs()));
    let blur = 2.0 * half_step * f32::from(steps) / (high - low) + f32::from(last) * ROUNDING_ERROR;
    match judge {
        Judge::F32 => blur.max(NEAR_TOLERANCE),
        Judge::Near => NEAR_TOLERANCE,
        Judge::F16 | Judge::Bf16 => blur,
    }
}

/// Returns true if the steps of the checkpoint's type may be as long as the steps of the lattice. In that case, the
/// differences of values do not determine the codes.
fn is_blurred(ends: (f32, f32), last: u8, judge: Judge) -> bool {
    tolerance(ends, last, last, judge) >= 0.5
}

/// Returns false if an `f32` block cannot be on a lattice. A passed check does not prove that the block is on a
/// lattice.
pub(super) fn may_fit(x: &[f32], last: u8) -> bool {
    let ends = range(x);
    // A block whose values are all equal may always be on a lattice, and `solve` is fast for such a block.
    ends.0 == ends.1 || fits(x, ends, last, Judge::F32).next().is_some() || is_blurred(ends, last, Judge::F32)
}

/// Writes to `codes` the number of steps from `low` to each value.
pub(super) fn count_steps(x: &[f32], (low, high): (f32, f32), steps: u8, codes: &mut [u8]) {
    let factor = f32::from(steps) / (high - low);
    codes.iter_mut().zip(x).for_each(|(code, x)| *code = nearest((x - low) * factor) as u8);
}

/// Returns the span of the step lengths that explain the distance of every value from the lowest value `low`.
pub(super) fn step(x: &[f32], codes: &[u8], low: f32, judge: Judge) -> Span {
    let span = |x: f32, code: u8| judge.span(x).minus(judge.span(low)).divided_by(f64::from(code));
    let spans = x.iter().zip(codes).filter(|(_, code)| **code > 0).map(|(&x, &code)| span(x, code));
    spans.fold(Span::ALL, Span::intersect)
}

/// Returns the span of the values that code 0 may have if the step length is `d`.
pub(super) fn base(x: &[f32], codes: &[u8], d: f32, judge: Judge) -> Span {
    let span = |x: f32, code: u8| judge.span(x).minus(Span::point(f64::from(d) * f64::from(code)));
    x.iter().zip(codes).map(|(&x, &code)| span(x, code)).fold(Span::ALL, Span::intersect)
}

/// Returns `d` and `m` of the block `x`, and writes its codes. Returns `None` if the block is not on a lattice.
pub(super) fn solve(x: &[f32], last: u8, judge: Judge, codes: &mut [u8]) -> Option<(f32, f32)> {
    let ends = range(x);
    if ends.0 == ends.1 {
        let (code, d, m) = single_value(ends.0, last, judge)?;
        codes.fill(code);
        return Some((d, m));
    }
    let found = fits(x, ends, last, judge).find_map(|steps| {
        count_steps(x, ends, steps, codes);
        if judge == Judge::Near && distinct_count(codes) < MIN_NEAR_LEVELS {
            return None;
        }
        // For `Near`, the scale is rounded to the nearest `f16` value. For the other judges, every exact scale is
        // accepted.
        let scales = match judge {
            Judge::Near => Span::point(f16::from_f32((ends.1 - ends.0) / f32::from(steps)).to_f64()),
            _ => step(x, codes, ends.0, judge),
        };
        let (shift, d, m) = scales.f16_values().find_map(|d| shift(x, codes, d, last - steps, judge))?;
        codes.iter_mut().for_each(|code| *code += shift);
        Some((d, m))
    });
    found.or_else(|| if is_blurred(ends, last, judge) { try_all(x, ends, last, judge, codes) } else { None })
}

/// Tries each pair of `d` and `m` that may give the lowest and the highest value, at most [`MAX_TRIES`] pairs. This is
/// slow, but such blocks are rare: all values of such a block are close to each other and far from zero.
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
        let scales = highest.minus(lowest).divided_by(f64::from(steps)).f16_values();
        scales.filter(|d| *d > 0.0).map(move |d| (steps, d))
    });
    let pairs = scales.flat_map(|(steps, d)| {
        let times = move |codes: u8| Span::point(f64::from(d) * f64::from(codes));
        let base = lowest.intersect(highest.minus(times(steps)));
        (0..=last - steps).flat_map(move |shift| base.minus(times(shift)).f16_values().map(move |m| (d, m)))
    });
    pairs.take(MAX_TRIES).find(|&(d, m)| encode(d, m))
}

/// Maximum number of pairs. It limits the time for a block that is not on a lattice.
const MAX_TRIES: usize = 4096;

/// Returns the smallest number, at most `max_shift`, that can be added to all codes so that some `m` explains all
/// values. Also returns `d` and `m`.
fn shift(x: &[f32], codes: &[u8], d: f32, max_shift: u8, judge: Judge) -> Option<(u8, f32, f32)> {
    let base = base(x, codes, d, judge);
    if base.is_empty() || d <= 0.0 {
        return None;
    }
    (0..=max_shift).find_map(|shift| {
        let accepted =
            |m: f32| x.iter().zip(codes).all(|(&x, &code)| judge.accepts(f32::from(code + shift) * d + m, x));
        let m = base
            .minus(Span::point(f64::from(d) * f64::from(shift)))
            .f16_values()
            .take(3)
            .find(|&m| accepted(m))?;
        Some((shift, d, m))
    })
}

/// Represents a block of equal values `x` by only `m`, if an `f16` value represents `x`. Otherwise, it represents `x`
/// by `m` and a remainder `d · code`, which may be positive or negative. Returns the code, `d` and `m`.
fn single_value(x: f32, last: u8, judge: Judge) -> Option<(u8, f32, f32)> {
    if judge == Judge::Near {
        return None;
    }
    let split = |m: f32| {
        let remainder = judge.span(x).minus(Span::point(m.into()));
        (1..=last).find_map(|code| {
            let mut scales = remainder.divided_by(code.into()).f16_values();
            scales.find(|&d| judge.accepts(f32::from(code) * d + m, x)).map(|d| (code, d, m))
        })
    };
    // The neighbours of the `f16` value nearest to `x` are tried, too.
    let (x64, wide) = (f64::from(x), f64::from(x.abs()) / 256.0);
    let near = Span { low: x64 - wide, high: x64 + wide };
    near.f16_values().find_map(|m| if judge.accepts(m, x) { Some((0, 0.0, m)) } else { split(m) })
}
