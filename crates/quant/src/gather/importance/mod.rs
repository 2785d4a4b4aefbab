//! Importance of the input columns of a matrix, as llama.cpp's `llama-imatrix` measures it.
//!
//! For every matrix and column the squares of the inputs are summed over many tokens. The mean square is the weight of
//! the column's rounding errors. Two file formats are read and written: GGUF (`gguf.rs`) and the older binary format
//! (`legacy_dat.rs`). The reader recognizes the format by the content.
//!
//! Invariant: the result of [`Importance::read`] is complete and finite, and [`Importance::mean_square`] returns
//! exactly the values that upstream's quantizer passes to its encoders. Source: llama.cpp's
//! `common/imatrix-loader.cpp`, `tools/imatrix/imatrix.cpp` and `tools/quantize/quantize.cpp`. Not implemented: merging
//! files; renaming entries for networks whose layers were pruned.

mod gather;
mod gguf;
mod legacy_dat;

pub use gather::gather_importance;

use crate::{Error, ImportanceFault};
use kvant_io::{Limits, MappedFile, OutputFile};
use std::collections::BTreeMap;
use std::path::Path;

/// The sums of one matrix, or of all experts that are stored as one tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    /// Sums of squared inputs, experts × columns.
    pub sums: Vec<f32>,
    /// The number of inputs in the sums: one count for each expert, or one count for all experts. The counts of a GGUF
    /// are tokens; the counts of a file in the older format are chunks of text. So the means of both formats are
    /// comparable, but sums of different formats must not be added.
    pub counts: Vec<f32>,
}

/// The content of an importance file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Importance {
    /// The entries by the tensor's GGUF name, for example `blk.0.attn_q.weight`.
    pub entries: BTreeMap<String, Entry>,
    /// The names of the texts.
    pub datasets: Vec<String>,
    /// The number of chunks of text.
    pub chunk_count: u32,
    /// Tokens of a chunk; 0 if the file does not contain this number.
    pub chunk_size: u32,
}

impl Importance {
    /// Reads a file of one of the two formats.
    ///
    /// # Errors
    /// Errors of the file and of its content, with their location.
    pub fn read(path: &Path, limits: &Limits) -> Result<Self, Error> {
        let bytes = MappedFile::open(path)?.into_bytes();
        // In the older format the first four bytes are the count of entries. These letters would be a count of more
        // than 10⁹, so no valid file of the older format begins with them.
        let importance = if bytes.starts_with(b"GGUF") {
            gguf::parse(path, bytes, limits)?
        } else {
            legacy_dat::parse(path, &bytes, limits)?
        };
        importance.check().map_err(|source| Error::ImportanceFile { path: path.into(), source })?;
        Ok(importance)
    }

    /// Writes a file: the older format if the name ends in `.dat`, otherwise a GGUF. The same content gives the same
    /// bytes. Before the file gets its name, the content is read back and checked.
    ///
    /// # Errors
    /// Content that a reader would reject; an existing output without `force`; errors of the file system.
    pub fn write(&self, path: &Path, force: bool) -> Result<(), Error> {
        self.check().map_err(|source| Error::ImportanceFile { path: path.into(), source })?;
        if path.extension().is_none_or(|extension| extension != "dat") {
            return gguf::write(self, path, force);
        }
        let bytes = legacy_dat::bytes(self)?;
        legacy_dat::parse(path, &bytes, &Limits::default())?;
        Ok(OutputFile::write_whole(path, &bytes, force)?)
    }

    /// Returns the mean square of every input column of `tensor`, experts × columns (`experts` is 1 for a plain
    /// matrix); `None` if there is no entry for the tensor. All columns of an expert that was never used get 1, as in
    /// upstream's quantizer.
    ///
    /// # Errors
    /// An entry whose length is not `columns` times `experts`; sums or counts that are negative or not finite.
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
        // One count may apply to several experts, for a tensor that has more than two dimensions but no router.
        let sums_per_count = entry.sums.len() / entry.counts.len();
        let groups = entry.sums.chunks_exact(sums_per_count).zip(&entry.counts);
        let means = groups.flat_map(|(sums, count)| {
            // Upstream stores counts as integers.
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
            // The number of columns is not stored. It is derived from the number of counts.
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
