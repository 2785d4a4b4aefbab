//! The work folder: what an unfinished run has already solved, so that the same command goes on from there.
//!
//! One file a unit (embedding, each block, head), renamed into place when the unit is done: a JSON header, the
//! tensors' bytes, blake3 over both; and the tokens of text that the network has written, and sums of its gradients. A
//! block's file also carries the digests of the residual streams after it. The key names input, recipe and calibration
//! text; a folder with another key is another run's. Invariant: what is loaded is what was saved, or an error; two runs
//! never share a folder. Left out: what a unit means.

use crate::{Error, Solved, sensitivity};
use kvant_core::{Bytes, Shape, Tensor, format};
use serde::{Deserialize, Serialize};
use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A locked work folder.
pub struct Work {
    folder: PathBuf,
    _lock: File,
}

/// What is solved and saved together.
#[derive(Clone)]
pub struct Unit {
    /// Tensors by name, in order.
    pub tensors: Vec<(String, Solved)>,
    /// Digests of the residual streams after a block: float, quantized.
    pub residuals: Option<(String, String)>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    tensors: Vec<TensorHeader>,
    residuals: Option<(String, String)>,
}

#[derive(Serialize, Deserialize)]
struct TensorHeader {
    name: String,
    format: String,
    dimensions: Vec<usize>,
    squared_error: f64,
    squared_sum: f64,
    flags: Vec<String>,
    chosen: Option<crate::Settings>,
}

/// Flags that a tensor may have come with; names live as long as the program.
const FLAGS: &[&str] = &["uncalibrated", "dead-columns", "lattice", "uncorrected", "uncoupled"];

impl Work {
    /// Makes or opens the folder for the run called `key`; `fresh` forgets what is there.
    ///
    /// # Errors
    /// A folder in use by another process, or of another run; what the file system says.
    pub fn open(folder: &Path, key: &str, fresh: bool) -> Result<Self, Error> {
        let fail = |path: &Path, source| Error::Work { path: path.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(|e| fail(folder, e))?;
        let path = folder.join("lock");
        let lock = File::options().write(true).create(true).truncate(false).open(&path);
        let lock = lock.map_err(|e| fail(&path, e))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::WorkInUse { path: folder.to_owned() }),
            Err(TryLockError::Error(e)) => return Err(fail(&path, e)),
        }
        let work = Self { folder: folder.to_owned(), _lock: lock };
        let key_path = folder.join("key");
        let found = std::fs::read_to_string(&key_path).ok();
        if fresh || found.is_none() {
            work.forget()?;
            work.place("key", key.as_bytes())?;
        } else if found.as_deref() != Some(key) {
            return Err(Error::WorkOfAnother { path: folder.to_owned() });
        }
        Ok(work)
    }

    /// A path inside the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Removes every unit and activation that this type may have put there, and nothing else.
    ///
    /// # Errors
    /// What the file system says.
    pub fn forget(&self) -> Result<(), Error> {
        let fail = |source| Error::Work { path: self.folder.clone(), source };
        for entry in std::fs::read_dir(&self.folder).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            if path.file_name().and_then(|name| name.to_str()).is_some_and(is_ours) {
                std::fs::remove_file(&path).map_err(|source| Error::Work { path, source })?;
            }
        }
        Ok(())
    }

    /// Removes the folder, with what this type put there; anything else stays.
    pub fn remove(self) {
        let _ = self.forget();
        let _ = std::fs::remove_file(self.folder.join("lock"));
        let _ = std::fs::remove_dir(&self.folder);
    }

    /// Puts a whole file into place.
    fn place(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let path = self.folder.join(name);
        place(&path, bytes).map_err(|source| Error::Work { path, source })
    }

    /// Saves a unit.
    ///
    /// # Errors
    /// What the file system says.
    pub fn save(&self, name: &str, unit: &Unit) -> Result<(), Error> {
        let header = Header {
            tensors: unit
                .tensors
                .iter()
                .map(|(name, solved)| TensorHeader {
                    name: name.clone(),
                    format: solved.tensor.format().name().to_owned(),
                    dimensions: solved.tensor.shape().dimensions().to_vec(),
                    squared_error: solved.squared_error,
                    squared_sum: solved.squared_sum,
                    flags: solved.flags.iter().map(|&f| f.to_owned()).collect(),
                    chosen: solved.chosen,
                })
                .collect(),
            residuals: unit.residuals.clone(),
        };
        let json = serde_json::to_vec(&header).expect("a header of names and numbers is JSON");
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(&json);
        unit.tensors.iter().for_each(|(_, solved)| bytes.extend_from_slice(solved.tensor.bytes()));
        bytes.extend_from_slice(blake3::hash(&bytes).as_bytes());
        self.place(&format!("{name}.unit"), &bytes)
    }

    /// Saves tokens.
    ///
    /// # Errors
    /// What the file system says.
    pub fn save_tokens(&self, name: &str, tokens: &[u32]) -> Result<(), Error> {
        self.place_words(&format!("{name}.tokens"), tokens.iter().map(|token| token.to_le_bytes()))
    }

    /// Loads tokens, if they were saved.
    ///
    /// # Errors
    /// A file that is not what was saved.
    pub fn load_tokens(&self, name: &str) -> Result<Option<Vec<u32>>, Error> {
        self.words(&format!("{name}.tokens"), u32::from_le_bytes)
    }

    /// Whether numbers were saved under this name.
    pub fn has_numbers(&self, name: &str) -> bool {
        self.folder.join(format!("{name}.sums")).exists()
    }

    /// Saves numbers.
    ///
    /// # Errors
    /// What the file system says.
    pub fn save_numbers(&self, name: &str, numbers: &[f32]) -> Result<(), Error> {
        self.place_words(&format!("{name}.sums"), numbers.iter().map(|number| number.to_le_bytes()))
    }

    /// Loads numbers that were saved.
    ///
    /// # Errors
    /// A file that is not what was saved, or not there.
    pub fn load_numbers(&self, name: &str) -> Result<Vec<f32>, Error> {
        let name = format!("{name}.sums");
        self.words(&name, f32::from_le_bytes)?.ok_or_else(|| Error::WorkDamaged { path: self.path(&name) })
    }

    /// Puts words into place, their digest behind them.
    fn place_words(&self, name: &str, words: impl ExactSizeIterator<Item = [u8; 4]>) -> Result<(), Error> {
        let mut bytes = Vec::with_capacity(4 * words.len() + 32);
        words.for_each(|word| bytes.extend_from_slice(&word));
        bytes.extend_from_slice(blake3::hash(&bytes).as_bytes());
        self.place(name, &bytes)
    }

    /// What [`Work::place_words`] has put there, if it has.
    fn words<T>(&self, name: &str, word: impl Fn([u8; 4]) -> T) -> Result<Option<Vec<T>>, Error> {
        let path = self.path(name);
        let Some(bytes) = read(&path)? else { return Ok(None) };
        let whole = checked(&bytes).filter(|body| body.len().is_multiple_of(4));
        let body = whole.ok_or(Error::WorkDamaged { path })?;
        Ok(Some(body.as_chunks().0.iter().map(|bytes| word(*bytes)).collect()))
    }

    /// Loads a unit, if it was saved.
    ///
    /// # Errors
    /// A file that is not what was saved.
    pub fn load(&self, name: &str) -> Result<Option<Unit>, Error> {
        let path = self.folder.join(format!("{name}.unit"));
        let Some(bytes) = read(&path)? else { return Ok(None) };
        parse(&bytes).map(Some).ok_or(Error::WorkDamaged { path })
    }
}

/// Puts a whole file into place, by way of one whose name ends in `.part`.
pub fn place(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = Path::new(&part);
    let mut file = File::create(part)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_data());
    let placed = written.and_then(|()| std::fs::rename(part, path));
    if placed.is_err() {
        let _ = std::fs::remove_file(part);
    }
    placed
}

/// A file's bytes, if it is there.
fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Work { path: path.to_owned(), source }),
    }
}

/// What stands before the digest that ends a file, where that is its digest.
fn checked(bytes: &[u8]) -> Option<&[u8]> {
    let (body, digest) = bytes.split_at_checked(bytes.len().checked_sub(32)?)?;
    (blake3::hash(body).as_bytes() == digest).then_some(body)
}

/// Whether a file of this name is one of a work folder: somebody may have named a folder that holds other things.
fn is_ours(name: &str) -> bool {
    let name = name.strip_suffix(".part").unwrap_or(name);
    let numbered = |stem: &str, kind: &str| {
        let number = stem.strip_prefix(kind);
        number.is_some_and(|n| n.len() >= 4 && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let unit = |stem: &str| stem == "embedding" || stem == "head" || numbered(stem, "block-");
    let stream = |stem: &str| {
        let of = stem.strip_suffix("-float").or_else(|| stem.strip_suffix("-quantized"));
        of.is_some_and(|of| ["residual-0", "residual-1", "input", "middle"].contains(&of))
    };
    name == "key"
        || name.strip_suffix(".unit").is_some_and(unit)
        || name.strip_suffix(".tokens").is_some_and(|stem| numbered(stem, "own-text-"))
        || name
            .strip_suffix(".sums")
            .is_some_and(|stem| stem == sensitivity::HEAD || numbered(stem, "sensitivity-"))
        || name.strip_suffix(".f32").is_some_and(stream)
}

fn parse(bytes: &[u8]) -> Option<Unit> {
    let body = checked(bytes)?;
    let length = usize::try_from(u64::from_le_bytes(*body.first_chunk::<8>()?)).ok()?;
    let (json, mut data) = body[8..].split_at_checked(length)?;
    let header: Header = serde_json::from_slice(json).ok()?;
    let mut tensors = Vec::new();
    for tensor in header.tensors {
        let (shape, format) = (Shape::new(&tensor.dimensions).ok()?, format::by_name(&tensor.format)?);
        let (own, rest) = data.split_at_checked(format.tensor_bytes(&shape).ok()?)?;
        data = rest;
        let solved = Solved {
            tensor: Tensor::new(shape, format, Bytes::from(own.to_vec())).ok()?,
            squared_error: tensor.squared_error,
            squared_sum: tensor.squared_sum,
            not_finite: None,
            overflow: None,
            chosen: tensor.chosen,
            flags: FLAGS.iter().copied().filter(|f| tensor.flags.iter().any(|t| t == f)).collect(),
        };
        tensors.push((tensor.name, solved));
    }
    Some(Unit { tensors, residuals: header.residuals })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(fill: u8) -> Unit {
        let shape = Shape::new(&[2, 32]).unwrap();
        let tensor = Tensor::new(shape, &format::Q4_0, Bytes::from(vec![fill; 36])).unwrap();
        let solved = Solved {
            tensor,
            squared_error: 0.1,
            squared_sum: 1.0 / 3.0,
            not_finite: None,
            overflow: None,
            flags: vec!["lattice"],
            chosen: Some(crate::Settings { correction_damping: None, ..crate::Settings::default() }),
        };
        Unit { tensors: vec![("a.weight".into(), solved)], residuals: Some(("f".into(), "q".into())) }
    }

    #[test]
    fn what_is_loaded_is_what_was_saved() {
        let folder = tempfile::tempdir().unwrap();
        let work = Work::open(folder.path(), "key", false).unwrap();
        assert!(work.load("block-0000").unwrap().is_none());
        work.save("block-0000", &unit(7)).unwrap();
        let loaded = work.load("block-0000").unwrap().unwrap();
        let (expected, found) = (&unit(7).tensors[0], &loaded.tensors[0]);
        assert_eq!(found.0, expected.0);
        assert!(found.1.tensor.bytes()[..] == expected.1.tensor.bytes()[..]);
        assert_eq!(found.1.squared_sum, expected.1.squared_sum);
        assert_eq!((&found.1.flags, found.1.chosen), (&expected.1.flags, expected.1.chosen));
        assert_eq!(loaded.residuals, unit(7).residuals);
        assert!(work.load_tokens("own-text-0000").unwrap().is_none());
        work.save_tokens("own-text-0000", &[7, u32::MAX]).unwrap();
        assert_eq!(work.load_tokens("own-text-0000").unwrap().unwrap(), [7, u32::MAX]);
        std::fs::write(work.path("own-text-0000.tokens"), [0; 40]).unwrap();
        assert!(matches!(work.load_tokens("own-text-0000"), Err(Error::WorkDamaged { .. })));
        let path = work.path("block-0000.unit");
        let good = std::fs::read(&path).unwrap();
        for at in (0..good.len()).step_by(7) {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            assert!(matches!(work.load("block-0000"), Err(Error::WorkDamaged { .. })), "byte {at}");
            std::fs::write(&path, &good[..at]).unwrap();
            assert!(matches!(work.load("block-0000"), Err(Error::WorkDamaged { .. })), "cut at {at}");
        }
    }

    #[test]
    fn a_folder_belongs_to_one_run_and_other_files_stay() {
        let folder = tempfile::tempdir().unwrap();
        let theirs = ["download.part", "samples.f32", "notes.unit", "block-1.unit"];
        theirs.iter().for_each(|name| std::fs::write(folder.path().join(name), name).unwrap());
        let work = Work::open(folder.path(), "one", false).unwrap();
        work.save("head", &unit(1)).unwrap();
        assert!(matches!(Work::open(folder.path(), "one", false), Err(Error::WorkInUse { .. })));
        drop(work);
        assert!(matches!(Work::open(folder.path(), "two", false), Err(Error::WorkOfAnother { .. })));
        let work = Work::open(folder.path(), "one", false).unwrap();
        assert!(work.load("head").unwrap().is_some());
        drop(work);
        let work = Work::open(folder.path(), "two", true).unwrap();
        assert!(work.load("head").unwrap().is_none());
        work.remove();
        let mut left: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        let mut expected = theirs.map(str::to_owned).to_vec();
        expected.sort();
        assert_eq!(left, expected);
    }
}
