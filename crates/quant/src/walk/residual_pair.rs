//! One activation of both networks, for every context, in the work folder.

use crate::Error;
use crate::gather::ActivationFile;
use crate::work_folder::WorkFolder;

/// What the float network and the quantized one have at one place.
pub struct ResidualPair {
    pub float: ActivationFile,
    pub quantized: ActivationFile,
}

impl ResidualPair {
    pub fn open(work: &WorkFolder, name: &str, numbers: usize) -> Result<Self, Error> {
        Ok(Self {
            float: ActivationFile::open(&work.path(&format!("{name}-float.f32")), numbers)?,
            quantized: ActivationFile::open(&work.path(&format!("{name}-quantized.f32")), numbers)?,
        })
    }

    pub fn read(&mut self, context: usize, count: usize) -> Result<(Vec<f32>, Vec<f32>), Error> {
        Ok((self.float.read(context, count)?, self.quantized.read(context, count)?))
    }

    pub fn write(&mut self, context: usize, float: &[f32], quantized: &[f32]) -> Result<(), Error> {
        self.float.write(context, float)?;
        self.quantized.write(context, quantized)
    }

    /// Digests of so many contexts.
    pub fn digests(&mut self, contexts: usize) -> Result<(String, String), Error> {
        let text = |hash: blake3::Hash| hash.to_hex().to_string();
        Ok((text(self.float.digest(contexts)?), text(self.quantized.digest(contexts)?)))
    }
}
