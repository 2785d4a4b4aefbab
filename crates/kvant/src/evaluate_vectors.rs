//! The job `eval` for models that give vectors of texts: compares their vectors with those of a reference.

use crate::embed::{self, TextReader};
use crate::{Error, Model, RunSettings};
use kvant_eval::Progress;
use kvant_kernels::{Arithmetic, Backend};
use serde::Serialize;

/// Compares the vectors of a model with those of a reference, text by text.
pub struct EvaluateVectors<'a> {
    /// The model.
    pub model: &'a Model,
    /// The reference: the model before quantization.
    pub reference: &'a Model,
    /// The texts.
    pub texts: &'a [&'a str],
    /// The arithmetic of matrix products. `None` measures with exact arithmetic.
    pub arithmetic: Option<Arithmetic>,
}

/// The agreement of the vectors of two models.
#[derive(Serialize, schemars::JsonSchema)]
pub struct VectorQuality {
    /// The number of texts.
    pub texts: usize,
    /// The number of elements of a vector.
    pub dimension: usize,
    /// Mean cosine of the two vectors of a text.
    pub cosine_mean: f64,
    /// Smallest cosine.
    pub cosine_min: f64,
    /// Share of the texts whose nearest other text is the same in both models; `None` for fewer than three texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub neighbour_agreement: Option<f64>,
    /// The number of texts that the tokenizer of the model converts to other ids than the tokenizer of the reference. The
    /// vectors are those of the reference's ids.
    pub other_ids: usize,
}

impl EvaluateVectors<'_> {
    /// Runs the evaluation.
    ///
    /// # Errors
    /// No texts; vectors of different lengths; errors of the tokenizers and of the networks.
    pub fn run(&self, backend: &Backend, progress: &dyn Progress) -> Result<VectorQuality, Error> {
        if self.texts.is_empty() {
            return Err(Error::option("--text", "there is no text in it"));
        }
        let reader = TextReader::new(self.reference, self.reference.tokenizer()?, None);
        let own = TextReader::new(self.model, self.model.tokenizer()?, None);
        let ids = self.texts.iter().map(|text| reader.ids(text)).collect::<Result<Vec<_>, _>>()?;
        let mut other_ids = 0;
        for (text, ids) in self.texts.iter().zip(&ids) {
            let found = own.ids(text)?.ids;
            // The model may cut texts at another length.
            let common = found.len().min(ids.ids.len()).saturating_sub(1);
            let same = found[..common] == ids.ids[..common] && (found.len() == ids.ids.len() || ids.cut);
            other_ids += usize::from(!same);
        }
        let exact = RunSettings::EXACT;
        let settings = RunSettings { arithmetic: self.arithmetic.or(exact.arithmetic), ..exact };
        let exact = embed::load(self.reference, backend, exact)?;
        let network = embed::load(self.model, backend, settings)?;
        let dimension = reader.settings.length(exact.spec().hidden);
        let found = own.settings.length(network.spec().hidden);
        if found != dimension || network.spec().vocabulary != exact.spec().vocabulary {
            let reason = format!(
                "vectors of {dimension} elements and {} tokens, the model has {found} and {}",
                exact.spec().vocabulary,
                network.spec().vocabulary
            );
            return Err(Error::option("--reference", reason));
        }
        progress.begin("reference");
        let expected = embed::vectors(&exact, &ids, &reader.settings, progress)?;
        progress.begin("eval");
        let found = embed::vectors(&network, &ids, &own.settings, progress)?;
        let rows = || expected.chunks_exact(dimension).zip(found.chunks_exact(dimension));
        let cosines: Vec<f64> = rows().map(|(a, b)| cosine(a, b)).collect();
        let agreement = || {
            let (a, b) = (nearest(&expected, dimension), nearest(&found, dimension));
            a.iter().zip(&b).filter(|(a, b)| a == b).count() as f64 / a.len() as f64
        };
        Ok(VectorQuality {
            texts: self.texts.len(),
            dimension,
            cosine_mean: cosines.iter().sum::<f64>() / cosines.len() as f64,
            cosine_min: cosines.iter().copied().fold(f64::INFINITY, f64::min),
            neighbour_agreement: (self.texts.len() > 2).then(agreement),
            other_ids,
        })
    }
}

/// The cosine of the angle between two vectors; 0 if one of them is zero.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths > 0.0 { dot(a, b) / lengths } else { 0.0 }
}

/// Returns, for each vector, the index of the other vector with the largest cosine. Of equal ones, it is the first.
fn nearest(vectors: &[f32], dimension: usize) -> Vec<usize> {
    let normalized: Vec<f32> = vectors
        .chunks_exact(dimension)
        .flat_map(|v| {
            let length = v.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
            v.iter().map(move |x| x / length)
        })
        .collect();
    let rows: Vec<&[f32]> = normalized.chunks_exact(dimension).collect();
    let of = |(i, row): (usize, &&[f32])| {
        let mut best = (f32::NEG_INFINITY, 0);
        for (j, other) in rows.iter().enumerate().filter(|(j, _)| *j != i) {
            let product: f32 = row.iter().zip(*other).map(|(a, b)| a * b).sum();
            if product > best.0 {
                best = (product, j);
            }
        }
        best.1
    };
    rows.iter().enumerate().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_vector_has_the_largest_cosine() {
        let vectors = [1.0, 0.0, 10.0, 1.0, 0.0, 3.0, -1.0, 5.0];
        assert_eq!(nearest(&vectors, 2), [1, 0, 3, 2]);
        assert!((cosine(&[3.0, 4.0], &[6.0, 8.0]) - 1.0).abs() < 1e-12);
        assert_eq!(cosine(&[0.0, 0.0], &[1.0, 0.0]), 0.0);
    }
}
