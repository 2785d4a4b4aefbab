//! A pair of files in the work folder. One file holds an activation of the float network for every context. The other
//! file holds the same activation of the quantized network.

use crate::Error;
use crate::gather::ActivationFile;
use crate::work_folder::WorkFolder;

/// The activations of the float network and of the quantized network at the same place in the network.
pub struct ResidualPair {
    pub float: ActivationFile,
    pub quantized: ActivationFile,
}

impl ResidualPair {
    pub fn open(work: &WorkFolder, name: &str, context_values: usize) -> Result<Self, Error> {
        Ok(Self {
            float: ActivationFile::open(&work.path(&format!("{name}-float.f32")), context_values)?,
            quantized: ActivationFile::open(&work.path(&format!("{name}-quantized.f32")), context_values)?,
        })
    }

    pub fn read(&mut self, context: usize, count: usize) -> Result<(Vec<f32>, Vec<f32>), Error> {
        Ok((self.float.read(context, count)?, self.quantized.read(context, count)?))
    }

    pub fn write(&mut self, context: usize, float: &[f32], quantized: &[f32]) -> Result<(), Error> {
        self.float.write(context, float)?;
        self.quantized.write(context, quantized)
    }

    /// Returns the digests of the first `contexts` contexts: first of the float network, then of the quantized network.
    pub fn digests(&mut self, contexts: usize) -> Result<(String, String), Error> {
        let text = |hash: blake3::Hash| hash.to_hex().to_string();
        Ok((text(self.float.digest(contexts)?), text(self.quantized.digest(contexts)?)))
    }
}
