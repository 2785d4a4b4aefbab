//! Superblocks: groups whose scales, and minima where there are any, are small whole multiples of one `f16` each.
//!
//! ```text
//! step of each group          the longest that explains its values: d · scale, perhaps times a divisor its codes share
//! d                           the longest f16 of which every step is a multiple
//! minima of each group        one for every number by which its codes can be raised
//! dmin                        the longest f16 of which every group has a minimum that is a multiple
//! ```
//!
//! Every block is checked against what will be decoded, so a wrong guess is refused, never written. Left out: `f32`
//! lattices whose scale is no `f16`; groups of one positive value in `q4_k` and `q5_k`; negative `dmin`, which no
//! encoder writes.

use super::affine;
use super::exactness::Judge;
use super::scaled::{Scaled, ends};
use super::span::Span;
use kvant_core::{Block, Codes};

/// Scales and minima of `q4_k` and `q5_k` are six bits wide.
const MOST: i16 = 63;

/// A block of `q6_k` or `iq4_xs`, the scales of whose groups lie from `scales.0` to `scales.1`.
pub(super) fn scaled(
    x: &[f32],
    table: &Scaled,
    scales: (i16, i16),
    judge: Judge,
    block: Block,
) -> Option<Codes> {
    if judge == Judge::Near {
        return None;
    }
    let groups = x.chunks_exact(block.group);
    let steps = groups.clone().map(|x| signed_step(x, table, judge)).collect::<Option<Vec<_>>>()?;
    let lengths: Vec<Span> =
        steps.iter().flatten().map(|s| if s.middle() < 0.0 { s.over(-1.0) } else { *s }).collect();
    let mut found = Codes::new(block);
    common(&lengths, -scales.0)
        .flat_map(Span::halves)
        .flat_map(|d| [d, -d])
        .find(|&d| {
            let codes = found.codes.chunks_exact_mut(block.group).zip(&mut found.scales);
            groups.clone().zip(&steps).zip(codes).all(|((x, step), (codes, scale))| {
                let Some(step) = step else { return table.encode(x, 0.0, judge, codes) };
                let whole = times(*step, f64::from(d));
                shares(whole).flat_map(|(share, _)| [share, -share]).any(|share| {
                    *scale = share;
                    (scales.0..=scales.1).contains(&share)
                        && table.encode(x, d * f32::from(share), judge, codes)
                })
            })
        })
        .map(|d| {
            found.d = d;
            found
        })
}

/// The longest step that explains a group, signed as its scale may be: `None` where there is none, `Some(None)` where
/// every value is zero.
fn signed_step(x: &[f32], table: &Scaled, judge: Judge) -> Option<Option<Span>> {
    let ends = ends(x);
    if ends.1 == 0.0 {
        return Some(None);
    }
    let level = table.fits(x, ends, judge).last()?;
    let factor = level / ends.1;
    let strips = x.iter().map(|&x| (x, table.level(x * factor))).filter(|(_, level)| *level != 0.0);
    let strips = strips.map(|(x, level)| judge.span(x).over(level.into()));
    let step = strips.fold(Span::ALL, Span::meet);
    (!step.is_empty()).then_some(Some(step))
}

/// Lengths of which all `steps` are multiples, the longest first, the shortest step at most `most` times.
fn common(steps: &[Span], most: i16) -> impl Iterator<Item = Span> {
    let shortest = steps.iter().copied().min_by(|a, b| a.middle().total_cmp(&b.middle()));
    let of_none = shortest.is_none().then_some(Span { low: 0.0, high: 0.0 });
    let divided = shortest.into_iter().flat_map(move |s| (1..=most).map(move |n| s.over(f64::from(n))));
    let shared = divided.filter_map(|start| {
        let span = steps.iter().fold(start, |d, step| {
            let whole = (step.middle() / d.middle()).round();
            d.meet(step.over(whole))
        });
        (!span.is_empty()).then_some(span)
    });
    shared.chain(of_none)
}

/// How many times `unit` goes into `step`, to the nearest.
fn times(step: Span, unit: f64) -> i16 {
    (step.middle() / unit).round().clamp(-32767.0, 32767.0) as i16
}

/// The ways to part `whole` into a scale and a common divisor of the group's codes.
fn shares(whole: i16) -> impl Iterator<Item = (i16, i16)> {
    let most = if whole == 0 { 1 } else { MOST };
    (1..=most).filter(move |divisor| whole % divisor == 0).map(move |divisor| (whole / divisor, divisor))
}

/// One way to write a group once `d` is known.
struct Choice {
    scale: i16,
    /// What codes as counted are multiplied by, and raised by.
    divisor: u8,
    shift: u8,
    /// What `dmin · min` may be.
    min: Span,
}

struct Group<'a> {
    x: &'a [f32],
    /// Codes above the lowest value, under the longest step; `None` where all values are one.
    step: Option<Span>,
    codes: Vec<u8>,
}

/// A block of `q4_k` or `q5_k`.
pub(super) fn affine(x: &[f32], last: u8, judge: Judge, block: Block) -> Option<Codes> {
    if judge == Judge::Near {
        return None;
    }
    let groups =
        x.chunks_exact(block.group).map(|x| Group::new(x, last, judge)).collect::<Option<Vec<_>>>()?;
    let steps: Vec<Span> = groups.iter().filter_map(|g| g.step).collect();
    common(&steps, MOST).flat_map(Span::halves).find_map(|d| {
        let choices: Vec<Vec<Choice>> = groups.iter().map(|g| g.choices(d, last, judge)).collect();
        minima(&choices).flat_map(|span| span.halves().take(3)).find_map(|dmin| {
            let mut found = Codes { d, dmin, ..Codes::new(block) };
            let parts = found.codes.chunks_exact_mut(block.group).zip(&mut found.scales).zip(&mut found.mins);
            let fits =
                groups.iter().zip(&choices).zip(parts).all(|((group, choices), ((codes, scale), min))| {
                    choices.iter().any(|choice| {
                        *scale = choice.scale;
                        *min = multiple(choice.min, f64::from(dmin)).unwrap_or(0);
                        let (scale, min) = (d * f32::from(*scale), dmin * f32::from(*min));
                        codes.iter_mut().zip(&group.codes).zip(group.x).all(|((code, &counted), &x)| {
                            *code = counted * choice.divisor + choice.shift;
                            judge.accepts(scale * f32::from(*code) - min, x)
                        })
                    })
                });
            fits.then_some(found)
        })
    })
}

impl<'a> Group<'a> {
    fn new(x: &'a [f32], last: u8, judge: Judge) -> Option<Self> {
        let ends = affine::range(x);
        if ends.0 == ends.1 {
            return Some(Self { x, step: None, codes: vec![0; x.len()] });
        }
        let steps = affine::fits(x, ends, last, judge).last()?;
        let mut codes = vec![0; x.len()];
        affine::count(x, ends, steps, &mut codes);
        let step = affine::step(x, &codes, ends.0, judge);
        (!step.is_empty()).then_some(Self { x, step: Some(step), codes })
    }

    fn choices(&self, d: f32, last: u8, judge: Judge) -> Vec<Choice> {
        let whole = self.step.map_or(0, |step| times(step, f64::from(d)));
        let highest = i16::from(self.codes.iter().copied().max().unwrap_or(0));
        let base = affine::base(self.x, &self.codes, d * f32::from(whole), judge);
        let shares =
            shares(whole).filter(|(scale, divisor)| *scale <= MOST && highest * divisor <= i16::from(last));
        let choice = |scale: i16, divisor: i16, shift: i16| Choice {
            scale,
            divisor: divisor as u8,
            shift: shift as u8,
            min: base.less(Span::of(f64::from(d) * f64::from(scale) * f64::from(shift))).over(-1.0),
        };
        let choices = shares.flat_map(|(scale, divisor)| {
            let room = if whole == 0 { 0 } else { i16::from(last) - highest * divisor };
            (0..=room).map(move |shift| choice(scale, divisor, shift))
        });
        if base.is_empty() { Vec::new() } else { choices.filter(|choice| choice.min.high >= 0.0).collect() }
    }
}

/// The whole number of times that `dmin` goes into one of `min`.
fn multiple(min: Span, dmin: f64) -> Option<i16> {
    let whole = if min.holds(0.0) { 0 } else { times(min, dmin) };
    (whole <= MOST).then_some(whole)
}

/// Ranges of `dmin` in which each group may have a choice whose minimum is a multiple.
fn minima(choices: &[Vec<Choice>]) -> impl Iterator<Item = Span> {
    let possible = choices.iter().all(|choices| !choices.is_empty());
    let bound: Vec<&Vec<Choice>> =
        choices.iter().filter(|choices| possible && !choices.iter().any(|c| c.min.holds(0.0))).collect();
    let none = (possible && bound.is_empty()).then_some(Span { low: 0.0, high: 0.0 });
    let tightest = bound.iter().copied().min_by_key(|choices| choices.len());
    let starts = tightest.into_iter().flatten();
    let starts = starts.flat_map(|choice| (1..=MOST).map(|whole| choice.min.over(f64::from(whole))));
    starts
        .filter_map(move |start| {
            bound.iter().try_fold(start, |dmin, choices| {
                choices.iter().find_map(|choice| {
                    let whole = multiple(choice.min, dmin.middle()).filter(|whole| *whole > 0)?;
                    let met = dmin.meet(choice.min.over(f64::from(whole)));
                    (!met.is_empty()).then_some(met)
                })
            })
        })
        .chain(none)
}
