//! Spends the budget step by step. Each step upgrades the tensor whose next format lowers the expected loss most per
//! byte.

use super::Choice;
use crate::plan::Formats;

/// Returns the formats of all tensors within `budget` bytes.
pub fn spend(choices: &[Choice], budget: u64) -> Formats {
    let mut at = vec![0usize; choices.len()];
    let mut left = budget - choices.iter().map(|c| c.curve.points[0].bytes).sum::<u64>().min(budget);
    // Returns the best step that the remaining bytes allow. If the bytes do not allow a large step, they can allow a
    // smaller step of another tensor.
    let best_step = |at: &[usize], left: u64| {
        let next = choices.iter().enumerate().filter_map(|(i, choice)| {
            let (now, next) = (choice.curve.points[at[i]], choice.curve.points.get(at[i] + 1)?);
            let bytes = next.bytes - now.bytes;
            (bytes <= left).then(|| (i, bytes, choice.cost * (now.error - next.error) / bytes as f64))
        });
        next.max_by(|a, b| a.2.total_cmp(&b.2).then(b.0.cmp(&a.0)))
    };
    while let Some((i, bytes, _)) = best_step(&at, left) {
        at[i] += 1;
        left -= bytes;
    }
    let format = |(choice, &at): (&Choice, &usize)| {
        (choice.assignment.entry.name.clone(), choice.curve.points[at].format)
    };
    choices.iter().zip(&at).map(format).collect()
}
