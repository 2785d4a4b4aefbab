//! Where bytes go: step by step to the tensor whose next format lowers the expected loss most for each byte.

use super::Choice;
use crate::plan::Formats;

/// The formats of all tensors within `budget` bytes.
pub fn spend(choices: &[Choice], budget: u64) -> Formats {
    let mut at = vec![0usize; choices.len()];
    let mut left = budget - choices.iter().map(|c| c.curve.points[0].bytes).sum::<u64>().min(budget);
    // Of all next steps that can be paid for, the best; where one can't, smaller ones still may.
    let step = |at: &[usize], left: u64| {
        let next = choices.iter().enumerate().filter_map(|(i, choice)| {
            let (now, next) = (choice.curve.points[at[i]], choice.curve.points.get(at[i] + 1)?);
            let bytes = next.bytes - now.bytes;
            (bytes <= left).then(|| (i, bytes, choice.cost * (now.error - next.error) / bytes as f64))
        });
        next.max_by(|a, b| a.2.total_cmp(&b.2).then(b.0.cmp(&a.0)))
    };
    while let Some((i, bytes, _)) = step(&at, left) {
        at[i] += 1;
        left -= bytes;
    }
    let format = |(choice, &at): (&Choice, &usize)| {
        (choice.assignment.entry.name.clone(), choice.curve.points[at].format)
    };
    choices.iter().zip(&at).map(format).collect()
}
