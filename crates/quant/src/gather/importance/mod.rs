//! Importance: how much each input column of a matrix matters, as llama.cpp's `llama-imatrix` measures it.
//!
//! For every matrix the squares of its inputs are summed column by column over many tokens; their mean weighs the
//! rounding errors of that column. Files come in two kinds, told apart by content: GGUF (`gguf.rs`, read and
//! written) and the older binary (`legacy_dat.rs`, the same).
//!
//! Invariant: what [`Importance::read`] returns is whole and finite, and [`Importance::mean_square`] gives the very
//! numbers that upstream's quantizer would hand to its encoders. Source: llama.cpp's `common/imatrix-loader.cpp`,
//! `tools/imatrix/imatrix.cpp` and `tools/quantize/quantize.cpp`. Left out: joining files, renaming for networks whose
//! layers were pruned.

mod gather;
mod gguf;
mod legacy_dat;

pub use gather::gather_importance;

use crate::{Error, ImportanceFault};
use kvant_io::{Limits, MappedFile, OutputFile};
use std::collections::BTreeMap;
use std::path::Path;

/// The sums of one matrix, or of the experts that are stored as one tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    /// Sums of squared inputs: a row of columns an expert, row after row.
    pub sums: Vec<f32>,
    /// How many inputs went into the sums: one number an expert, or one for all. Tokens, but chunks where a file of
    /// the older kind was read: the means of both kinds are alike, their sums must not be added.
    pub counts: Vec<f32>,
}

/// What an importance file holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Importance {
    /// By the tensor's GGUF name, `blk.0.attn_q.weight`.
    pub entries: BTreeMap<String, Entry>,
    /// The texts that were read, as they were called then.
    pub datasets: Vec<String>,
    /// How many chunks of text were read.
    pub chunk_count: u32,
    /// Tokens of a chunk; 0 where the file does not say.
    pub chunk_size: u32,
}

impl Importance {
    /// Reads a file of either kind.
    ///
    /// # Errors
    /// Whatever is wrong with the file, with its place.
    pub fn read(path: &Path, limits: &Limits) -> Result<Self, Error> {
        let bytes = MappedFile::open(path)?.into_bytes();
        // As the older kind's count of entries these four letters would be more than a thousand million.
        let importance = if bytes.starts_with(b"GGUF") {
            gguf::parse(path, bytes, limits)?
        } else {
            legacy_dat::parse(path, &bytes, limits)?
        };
        importance.check().map_err(|source| Error::ImportanceFile { path: path.into(), source })?;
        Ok(importance)
    }

    /// Writes a file, the same bytes for the same content, and reads it back before it takes its name: the older kind
    /// where the name ends in `.dat`, else a GGUF.
    ///
    /// # Errors
    /// Content that no reader would take; an output that exists without `force`; what the file system says.
    pub fn write(&self, path: &Path, force: bool) -> Result<(), Error> {
        self.check().map_err(|source| Error::ImportanceFile { path: path.into(), source })?;
        if path.extension().is_none_or(|extension| extension != "dat") {
            return gguf::write(self, path, force);
        }
        let bytes = legacy_dat::bytes(self)?;
        legacy_dat::parse(path, &bytes, &Limits::default())?;
        Ok(OutputFile::write_whole(path, &bytes, force)?)
    }

    /// The mean square of every input column of `tensor`: `columns` numbers for each of its `experts` (1 for a plain
    /// matrix), expert after expert; `None` where nothing is known of the tensor. As upstream's quantizer has it, an
    /// expert that was never used weighs all its columns 1.
    ///
    /// # Errors
    /// Another length than `columns` times `experts`; sums or counts that are negative or not finite.
    pub fn mean_square(
        &self,
        tensor: &str,
        columns: usize,
        experts: usize,
    ) -> Result<Option<Vec<f32>>, Error> {
        let Some(entry) = self.entries.get(tensor) else { return Ok(None) };
        if columns.checked_mul(experts) != Some(entry.sums.len()) {
            let (tensor, found) = (tensor.to_owned(), entry.sums.len());
            return Err(ImportanceFault::Columns { tensor, columns, experts, found }.into());
        }
        entry.check(tensor, columns)?;
        // One count may stand for several experts: a matrix of more than two dimensions that no router chooses from.
        let of_a_count = entry.sums.len() / entry.counts.len();
        let groups = entry.sums.chunks_exact(of_a_count).zip(&entry.counts);
        let means = groups.flat_map(|(sums, count)| {
            // Upstream keeps counts as whole numbers.
            let count = count.round();
            sums.iter().map(move |sum| if count > 0.0 { sum / count } else { 1.0 })
        });
        Ok(Some(means.collect()))
    }

    fn check(&self) -> Result<(), ImportanceFault> {
        if self.entries.is_empty() {
            return Err(ImportanceFault::Empty);
        }
        self.entries.iter().try_for_each(|(tensor, entry)| {
            // Where the columns end is known only as far as the counts tell.
            entry.check(tensor, entry.sums.len() / entry.counts.len().max(1))
        })
    }
}

impl Entry {
    fn check(&self, tensor: &str, columns: usize) -> Result<(), ImportanceFault> {
        let (sums, counts) = (self.sums.len(), self.counts.len());
        if sums == 0 || counts == 0 || !sums.is_multiple_of(counts) {
            return Err(ImportanceFault::Lengths { tensor: tensor.into(), sums, counts });
        }
        let bad = |x: &f32| !(x.is_finite() && *x >= 0.0);
        if let Some(index) = self.counts.iter().position(bad) {
            return Err(ImportanceFault::Count { tensor: tensor.into(), index, value: self.counts[index] });
        }
        match self.sums.iter().position(bad) {
            Some(index) => Err(ImportanceFault::Sum {
                tensor: tensor.into(),
                expert: index / columns,
                column: index % columns,
                value: self.sums[index],
            }),
            None => Ok(()),
        }
    }
}
