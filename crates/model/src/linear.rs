//! A linear map with a loaded weight.

use crate::{Error, Slot, Weights, buffers};
use kvant_core::{Shape, Tensor};
use kvant_kernels::{Backend, Input, Matrix, ops};
use std::ops::Range;
use std::sync::Arc;

/// A linear map with a loaded weight, prepared for this processor.
#[derive(Clone)]
pub(crate) struct Linear {
    /// The weight's tensor name.
    pub name: String,
    pub weight: Arc<dyn Matrix>,
    bias: Option<Vec<f32>>,
    /// The rows of the tensor that this map uses; `None` if it uses all rows.
    rows: Option<Range<usize>>,
}

impl Linear {
    pub fn load(weights: &Weights, backend: &Backend, slot: &Slot) -> Result<Self, Error> {
        let name = slot.weight();
        let weight = prepare_rows(backend, &weights.tensor(&name)?, weights, &name, None)?;
        let bias = slot.bias().map(|name| weights.vector(&name)).transpose()?;
        Ok(Self { name, weight, bias, rows: None })
    }

    /// Builds one linear map from each of the given ranges of rows of one tensor. The maps share the tensor's copy if the
    /// checkpoint has to copy it.
    pub fn load_parts<'a>(
        weights: &Weights,
        slot: &Slot,
        parts: impl IntoIterator<Item = (&'a Backend, Range<usize>)>,
    ) -> Result<Vec<Self>, Error> {
        let name = slot.weight();
        let tensor = weights.tensor(&name)?;
        let biases = slot.bias().map(|name| weights.vector(&name)).transpose()?;
        let part = |(backend, rows): (&Backend, Range<usize>)| {
            let weight = prepare_rows(backend, &tensor, weights, &name, Some(&rows))?;
            let bias = biases.as_ref().map(|biases| biases[rows.clone()].to_vec());
            Ok(Self { name: name.clone(), weight, bias, rows: Some(rows) })
        };
        parts.into_iter().map(part).collect()
    }

    pub fn without_bias(weight: Arc<dyn Matrix>) -> Self {
        Self { name: String::new(), weight, bias: None, rows: None }
    }

    pub fn weight(&self) -> &dyn Matrix {
        &*self.weight
    }

    pub fn into_weight(self) -> Arc<dyn Matrix> {
        self.weight
    }

    /// Replaces the weight. `tensor` has all rows of the named tensor, also if this map uses only a part of them. The
    /// bias does not change.
    pub fn replace(&mut self, backend: &Backend, tensor: &Tensor, weights: &Weights) -> Result<(), Error> {
        self.weight = prepare_rows(backend, tensor, weights, &self.name, self.rows.as_ref())?;
        Ok(())
    }

    /// Wraps activations, n × columns, as the input of this map.
    pub fn input<'a>(&self, x: &'a [f32]) -> Input<'a> {
        Input::new(x, self.weight.columns())
    }

    /// Returns the product with `x`, plus the bias. `x` is n × columns, the result is n × rows.
    pub fn apply(&self, backend: &Backend, x: &Input) -> Vec<f32> {
        let mut y = buffers::take(x.rows() * self.weight.rows());
        self.apply_into(backend, x, &mut y);
        y
    }

    /// Like [`Linear::apply`], but writes to `y`.
    pub fn apply_into(&self, backend: &Backend, x: &Input, y: &mut [f32]) {
        self.weight.apply(x, y);
        self.add_bias(backend, y);
    }

    fn add_bias(&self, backend: &Backend, y: &mut [f32]) {
        if let Some(bias) = &self.bias {
            ops::add_bias(backend, y, bias);
        }
    }
}

/// Applies several maps to the same activations.
pub(crate) fn apply_all<const N: usize>(backend: &Backend, maps: [&Linear; N], x: &[f32]) -> [Vec<f32>; N] {
    let rows = x.len() / maps[0].weight.columns();
    let mut results = maps.map(|map| buffers::take(rows * map.weight.rows()));
    apply_many(backend, &maps, x, results.iter_mut().map(Vec::as_mut_slice).collect());
    results
}

/// Applies several maps to the same activations. `results[i]` receives the result of `maps[i]`.
pub(crate) fn apply_many(backend: &Backend, maps: &[&Linear], x: &[f32], results: Vec<&mut [f32]>) {
    let input = maps[0].input(x);
    apply_each(backend, maps, &vec![&input; maps.len()], results);
}

/// Applies each of several maps with equally many columns to its own activations. `results[i]` receives the result of
/// `maps[i]`.
pub(crate) fn apply_each(
    backend: &Backend,
    maps: &[&Linear],
    inputs: &[&Input],
    mut results: Vec<&mut [f32]>,
) {
    let matrices: Vec<&dyn Matrix> = maps.iter().map(|map| &*map.weight).collect();
    kvant_kernels::apply_each(&matrices, inputs, &mut results);
    maps.iter().zip(results).for_each(|(map, y)| map.add_bias(backend, y));
}

fn prepare_rows(
    backend: &Backend,
    tensor: &Tensor,
    weights: &Weights,
    name: &str,
    rows: Option<&Range<usize>>,
) -> Result<Arc<dyn Matrix>, Error> {
    let Some(rows) = rows else { return load_matrix(backend, tensor, weights, name) };
    let part = (|| {
        let bytes = rows.start * tensor.row_bytes()..rows.end * tensor.row_bytes();
        let shape = Shape::new(&[rows.len(), tensor.shape().columns()])?;
        Tensor::new(shape, tensor.format(), tensor.bytes().slice(bytes).expect("rows of the tensor"))
    })();
    let part = part.map_err(|source| Error::Shape { path: weights.path().to_owned(), source })?;
    load_matrix(backend, &part, weights, name)
}

/// Prepares a tensor of a network for matrix products. `name` is used in error messages.
///
/// # Errors
/// [`Error::Kernel`] for a tensor that no kernel supports.
pub fn load_matrix(
    backend: &Backend,
    tensor: &Tensor,
    weights: &Weights,
    name: &str,
) -> Result<Arc<dyn Matrix>, Error> {
    let matrix = backend.load(tensor).map_err(|source| Error::Kernel {
        path: weights.path().to_owned(),
        tensor: name.to_owned(),
        source,
    })?;
    Ok(Arc::from(matrix))
}
