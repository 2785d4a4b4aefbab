//! Superblocks: blocks in which each group has an integer scale. The scale of a group is the product of this integer
//! and the block's `d`, an `f16` value. If the format has minima, the minimum of a group is the product of an integer
//! and the block's `dmin`, an `f16` value.
//!
//! ```text
//! step of each group          the longest step that explains its values: d · scale · common divisor of its codes
//! d                           the largest f16 value of which every step is a multiple
//! minima of each group        one minimum for each number that can be added to its codes
//! dmin                        the largest f16 value of which every group has a minimum that is a multiple
//! ```
//!
//! Every block is compared with its decoded values. If a guess is wrong, it is rejected and never written. Not covered
//! here: `f32` lattices whose scale is not an `f16` value; groups of equal positive values in `q4_k` and `q5_k`;
//! negative `dmin`, which no encoder writes.

use super::affine;
use super::exactness::Judge;
use super::scaled::{LevelTable, ends};
use super::span::Span;
use kvant_core::{Block, Codes};

/// The largest integer scale and integer minimum of `q4_k` and `q5_k`, because they have six bits.
const MAX_SCALE: i16 = 63;

/// Solves a block of `q6_k` or `iq4_xs`. The integer scales of its groups are from `scales.0` to `scales.1`, inclusive.
pub(super) fn scaled(
    x: &[f32],
    table: &LevelTable,
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
        steps.iter().flatten().map(|s| if s.middle() < 0.0 { s.divided_by(-1.0) } else { *s }).collect();
    let mut found = Codes::new(block);
    common_units(&lengths, -scales.0)
        .flat_map(Span::f16_values)
        .flat_map(|d| [d, -d])
        .find(|&d| {
            let codes = found.codes.chunks_exact_mut(block.group).zip(&mut found.scales);
            groups.clone().zip(&steps).zip(codes).all(|((x, step), (codes, scale))| {
                let Some(step) = step else { return table.encode(x, 0.0, judge, codes) };
                let whole = rounded_ratio(*step, f64::from(d));
                factorizations(whole).flat_map(|(factor, _)| [factor, -factor]).any(|factor| {
                    *scale = factor;
                    (scales.0..=scales.1).contains(&factor)
                        && table.encode(x, d * f32::from(factor), judge, codes)
                })
            })
        })
        .map(|d| {
            found.d = d;
            found
        })
}

/// Returns the longest step that explains a group, with the sign of the group's scale. Returns `None` if no step
/// explains the group, and `Some(None)` if every value is zero.
fn signed_step(x: &[f32], table: &LevelTable, judge: Judge) -> Option<Option<Span>> {
    let ends = ends(x);
    if ends.1 == 0.0 {
        return Some(None);
    }
    let level = table.fits(x, ends, judge).last()?;
    let factor = level / ends.1;
    let spans = x.iter().map(|&x| (x, table.level(x * factor))).filter(|(_, level)| *level != 0.0);
    let spans = spans.map(|(x, level)| judge.span(x).divided_by(level.into()));
    let step = spans.fold(Span::ALL, Span::intersect);
    (!step.is_empty()).then_some(Some(step))
}

/// Returns the units of which all `steps` are multiples, the largest first. The shortest step is at most `max_multiple`
/// units long. If `steps` is empty, the only unit is 0.
fn common_units(steps: &[Span], max_multiple: i16) -> impl Iterator<Item = Span> {
    let shortest = steps.iter().copied().min_by(|a, b| a.middle().total_cmp(&b.middle()));
    let if_empty = shortest.is_none().then_some(Span { low: 0.0, high: 0.0 });
    let divided =
        shortest.into_iter().flat_map(move |s| (1..=max_multiple).map(move |n| s.divided_by(f64::from(n))));
    let shared = divided.filter_map(|start| {
        let span = steps.iter().fold(start, |d, step| {
            let whole = (step.middle() / d.middle()).round();
            d.intersect(step.divided_by(whole))
        });
        (!span.is_empty()).then_some(span)
    });
    shared.chain(if_empty)
}

/// Returns `step` / `unit`, rounded to an integer.
fn rounded_ratio(step: Span, unit: f64) -> i16 {
    (step.middle() / unit).round().clamp(-32767.0, 32767.0) as i16
}

/// Returns all factorizations of `whole` into a scale and a common divisor of the group's codes.
fn factorizations(whole: i16) -> impl Iterator<Item = (i16, i16)> {
    let max_divisor = if whole == 0 { 1 } else { MAX_SCALE };
    (1..=max_divisor)
        .filter(move |divisor| whole % divisor == 0)
        .map(move |divisor| (whole / divisor, divisor))
}

/// One possible representation of a group for a given `d`.
struct Choice {
    /// The group's integer scale.
    scale: i16,
    /// The factor of the counted codes ([`Group::codes`]).
    divisor: u8,
    /// The number that is added to the codes after the multiplication.
    shift: u8,
    /// The span of the possible values of `dmin · min`.
    min: Span,
}

/// One group of a superblock with minima.
struct Group<'a> {
    /// The group's values.
    x: &'a [f32],
    /// The span of the longest step that explains the values; `None` if all values are equal.
    step: Option<Span>,
    /// The number of steps from the lowest value to each value.
    codes: Vec<u8>,
}

/// Solves a block of `q4_k` or `q5_k`. `last` is the highest code.
pub(super) fn affine(x: &[f32], last: u8, judge: Judge, block: Block) -> Option<Codes> {
    if judge == Judge::Near {
        return None;
    }
    let groups =
        x.chunks_exact(block.group).map(|x| Group::new(x, last, judge)).collect::<Option<Vec<_>>>()?;
    let steps: Vec<Span> = groups.iter().filter_map(|g| g.step).collect();
    common_units(&steps, MAX_SCALE).flat_map(Span::f16_values).find_map(|d| {
        let choices: Vec<Vec<Choice>> = groups.iter().map(|g| g.choices(d, last, judge)).collect();
        dmin_spans(&choices).flat_map(|span| span.f16_values().take(3)).find_map(|dmin| {
            let mut found = Codes { d, dmin, ..Codes::new(block) };
            let parts = found.codes.chunks_exact_mut(block.group).zip(&mut found.scales).zip(&mut found.mins);
            let fits =
                groups.iter().zip(&choices).zip(parts).all(|((group, choices), ((codes, scale), min))| {
                    choices.iter().any(|choice| {
                        *scale = choice.scale;
                        *min = stored_minimum(choice.min, f64::from(dmin)).unwrap_or(0);
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
        affine::count_steps(x, ends, steps, &mut codes);
        let step = affine::step(x, &codes, ends.0, judge);
        (!step.is_empty()).then_some(Self { x, step: Some(step), codes })
    }

    /// Returns all possible representations of the group under `d`.
    fn choices(&self, d: f32, last: u8, judge: Judge) -> Vec<Choice> {
        let whole = self.step.map_or(0, |step| rounded_ratio(step, f64::from(d)));
        let highest = i16::from(self.codes.iter().copied().max().unwrap_or(0));
        let base = affine::base(self.x, &self.codes, d * f32::from(whole), judge);
        let factorizations = factorizations(whole)
            .filter(|(scale, divisor)| *scale <= MAX_SCALE && highest * divisor <= i16::from(last));
        let choice = |scale: i16, divisor: i16, shift: i16| Choice {
            scale,
            divisor: divisor as u8,
            shift: shift as u8,
            min: base.minus(Span::point(f64::from(d) * f64::from(scale) * f64::from(shift))).divided_by(-1.0),
        };
        let choices = factorizations.flat_map(|(scale, divisor)| {
            let max_shift = if whole == 0 { 0 } else { i16::from(last) - highest * divisor };
            (0..=max_shift).map(move |shift| choice(scale, divisor, shift))
        });
        if base.is_empty() { Vec::new() } else { choices.filter(|choice| choice.min.high >= 0.0).collect() }
    }
}

/// Returns the integer whose product with `dmin` is nearest to the middle of `min`. Returns 0 if `min` contains 0.
/// Returns `None` if the integer is too large to store.
fn stored_minimum(min: Span, dmin: f64) -> Option<i16> {
    let whole = if min.contains(0.0) { 0 } else { rounded_ratio(min, dmin) };
    (whole <= MAX_SCALE).then_some(whole)
}

/// Returns the spans of `dmin` in which every group may have a choice whose minimum is a multiple of `dmin`.
fn dmin_spans(choices: &[Vec<Choice>]) -> impl Iterator<Item = Span> {
    let possible = choices.iter().all(|choices| !choices.is_empty());
    let constrained: Vec<&Vec<Choice>> =
        choices.iter().filter(|choices| possible && !choices.iter().any(|c| c.min.contains(0.0))).collect();
    let none = (possible && constrained.is_empty()).then_some(Span { low: 0.0, high: 0.0 });
    let tightest = constrained.iter().copied().min_by_key(|choices| choices.len());
    let starts = tightest.into_iter().flatten();
    let starts =
        starts.flat_map(|choice| (1..=MAX_SCALE).map(|whole| choice.min.divided_by(f64::from(whole))));
    starts
        .filter_map(move |start| {
            constrained.iter().try_fold(start, |dmin, choices| {
                choices.iter().find_map(|choice| {
                    let whole = stored_minimum(choice.min, dmin.middle()).filter(|whole| *whole > 0)?;
                    let common = dmin.intersect(choice.min.divided_by(f64::from(whole)));
                    (!common.is_empty()).then_some(common)
                })
            })
        })
        .chain(none)
}
