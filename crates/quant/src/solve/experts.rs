//! Solves the maps of all experts that are stored as one tensor, expert by expert.

use super::flag::Flag;
use super::solver::{Layer, Solved, Solver};
use crate::Error;
use crate::gather::Statistics;
use kvant_core::{Bytes, FormatRef, Shape, Tensor};
use kvant_model::experts;

/// The smallest number of tokens of an expert for its own sums. With fewer tokens, its maps are solved with the sums over
/// the tokens of all experts, and the tensor gets a flag.
const EXPERT_TOKENS: usize = 64;

/// Solves the maps of all experts of one tensor. `sums` has the sums of each expert. `layer` has the sums over all tokens.
///
/// # Errors
/// Errors of [`Solver::solve`].
pub fn solve_experts(
    method: &dyn Solver,
    layer: &Layer,
    sums: &[Statistics],
    format: FormatRef,
) -> Result<Solved, Error> {
    let weight = layer.weight;
    let (experts, columns) = (experts(weight.shape()), weight.shape().columns());
    let rows = weight.shape().rows() / experts;
    let shape_error = |source| Error::Shape { tensor: layer.name.to_owned(), source };
    let shape = Shape::new(&[rows, columns]).map_err(shape_error)?;
    let expert_bytes = rows * weight.row_bytes();
    let mut bytes = Vec::with_capacity(format.tensor_bytes(weight.shape()).map_err(shape_error)?);
    let mut all: Option<Solved> = None;
    for expert in 0..experts {
        let part = weight.bytes().slice(expert * expert_bytes..(expert + 1) * expert_bytes);
        let part =
            Tensor::new(shape, weight.format(), part.expect("rows of the tensor")).map_err(shape_error)?;
        let own = sums.get(expert).filter(|sums| sums.tokens >= EXPERT_TOKENS);
        let importance = own.map(Statistics::mean_squares);
        let mut solved = method.solve(
            &Layer {
                weight: &part,
                importance: importance.as_deref().or(layer.importance),
                statistics: own.or(layer.statistics),
                sensitivity: None,
                ..*layer
            },
            format,
        )?;
        if own.is_none() && !solved.flags.contains(&Flag::Lattice) {
            solved.flags.push(Flag::FewTokens);
        }
        bytes.extend_from_slice(solved.tensor.bytes());
        all = Some(match all {
            None => solved,
            Some(before) => joined(before, solved, expert * rows * columns),
        });
    }
    let solved = all.expect("at least one expert");
    let tensor = Tensor::new(*weight.shape(), format, Bytes::from(bytes)).map_err(shape_error)?;
    Ok(Solved { tensor, ..solved })
}

/// Joins the results of experts. `first` is the index of the first element of `next` in the whole tensor. The tensor of
/// the result is not the whole tensor.
fn joined(before: Solved, next: Solved, first: usize) -> Solved {
    let shifted = |(element, value)| (first + element, value);
    let mut flags = before.flags;
    for flag in next.flags {
        if !flags.contains(&flag) {
            flags.push(flag);
        }
    }
    Solved {
        tensor: before.tensor,
        squared_error: before.squared_error + next.squared_error,
        squared_sum: before.squared_sum + next.squared_sum,
        not_finite: before.not_finite.or(next.not_finite.map(shifted)),
        overflow: before.overflow.or(next.overflow.map(shifted)),
        flags,
        chosen: None,
    }
}
