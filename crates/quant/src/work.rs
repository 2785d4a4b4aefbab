//! The work folder: what an unfinished run has already solved, so that the same command goes on from there.
//!
//! One file a unit (embedding, each block, head), renamed into place when the unit is done: a JSON header, the
//! tensors' bytes, a digest; and the tokens of text that the network has written, and sums of its gradients. A block's
//! file also carries the digests of the residual streams after it. The key names input, recipe and calibration text; a
//! folder with another key is another run's. Digests are blake3 over the key, the file's name and its content, so a file
//! of another run or under another name is not taken for this one.
//!
//! Invariant: what is loaded is what was saved and what the run has planned, or an error; what cannot be loaded is told
//! and kept, never deleted; two runs never share a folder. No link is followed, and only regular files are read, replaced
//! or removed. Left out: what a unit means; protection from somebody who may write to the folder and knows its key.

use crate::{Error, Solved, sensitivity};
use kvant_core::{Bytes, Shape, Tensor, format};
use kvant_io::{Links, OutputFile, PlannedTensor, open_for_update, read_file, temporary_of};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// The file that names the run.
const KEY: &str = "key";
/// The file that is locked as long as a run is at work.
const LOCK: &str = "lock";
/// Bytes of a digest.
const DIGEST_BYTES: usize = 32;
/// Bytes of a unit's header, at most.
const HEADER_BYTES: usize = 1 << 20;
/// Most sweeps that a saved setting may ask for.
const MAX_SWEEPS: usize = 64;

/// A locked work folder.
pub struct Work {
    folder: PathBuf,
    key: String,
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

/// Refuses a work folder that is there and is none, before any work; the folder's path without what follows its name.
///
/// # Errors
/// [`Error::WorkFolder`] for a link or what is no folder; what the file system says.
pub fn check_work_folder(folder: &Path) -> Result<PathBuf, Error> {
    // With a slash behind its name a link would be followed.
    let folder: PathBuf = folder.components().collect();
    let refuse = |reason| Err(Error::WorkFolder { path: folder.clone(), reason });
    match fs::symlink_metadata(&folder) {
        _ if folder.as_os_str().is_empty() => refuse("its name is empty"),
        Ok(entry) if entry.is_symlink() => refuse("it is a symbolic link, which is not followed"),
        Ok(entry) if !entry.is_dir() => refuse("it is no folder"),
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::Work { path: folder, source }),
        _ => Ok(folder),
    }
}

impl Work {
    /// Makes or opens the folder for the run called `key`; `fresh` forgets what is there.
    ///
    /// # Errors
    /// A folder in use by another process, or of another run; a key that is missing beside saved work, or that cannot be
    /// read; what the file system says. Nothing is deleted then.
    pub fn open(folder: &Path, key: &str, fresh: bool) -> Result<Self, Error> {
        let folder = check_work_folder(folder)?;
        let fail = |source| Error::Work { path: folder.clone(), source };
        fs::create_dir_all(&folder).map_err(fail)?;
        let lock = open_for_update(&folder.join(LOCK))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::WorkInUse { path: folder }),
            Err(TryLockError::Error(source)) => return Err(Error::Work { path: folder.join(LOCK), source }),
        }
        let work = Self { folder, key: key.to_owned(), _lock: lock };
        if fresh {
            work.forget()?;
        } else if work.has_key()? {
            return Ok(work);
        } else if work.own_files()?.iter().any(|path| !is_temporary(path)) {
            return Err(Error::WorkWithoutKey { path: work.folder });
        }
        work.place(KEY, key.as_bytes())?;
        Ok(work)
    }

    /// Whether the folder has this run's key; an error if it has another.
    fn has_key(&self) -> Result<bool, Error> {
        let path = self.path(KEY);
        let Some(found) = read_file(&path, Links::Refuse, 4096)? else { return Ok(false) };
        if found == self.key.as_bytes() {
            return Ok(true);
        }
        let is_key = found.len() == self.key.len() && found.iter().all(u8::is_ascii_hexdigit);
        Err(if is_key {
            Error::WorkOfAnother { path: self.folder.clone() }
        } else {
            Error::WorkDamaged { path, remedy: "nothing was deleted; --fresh starts over" }
        })
    }

    /// A path inside the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Entries whose names this type gives; the key last.
    fn own_files(&self) -> Result<Vec<PathBuf>, Error> {
        let fail = |source| Error::Work { path: self.folder.clone(), source };
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            if path.file_name().and_then(|name| name.to_str()).is_some_and(is_ours) {
                found.push(path);
            }
        }
        // Stopped in the middle, a run that goes on finds a key and the last units only, and solves the first again.
        found.sort_by_key(|path| (path.ends_with(KEY), path.clone()));
        Ok(found)
    }

    /// Removes every regular file that this type may have put there, and nothing else.
    ///
    /// # Errors
    /// An entry of such a name that is no regular file: then nothing is removed. What the file system says.
    fn forget(&self) -> Result<(), Error> {
        let files = self.own_files()?;
        for path in &files {
            if !is_regular(path)? {
                return Err(kvant_io::Error::NotRecognised {
                    path: path.clone(),
                    found: "not a regular file, though it has the name of one of a work folder's",
                    hint: "nothing was deleted; remove it",
                }
                .into());
            }
        }
        for path in files {
            fs::remove_file(&path).map_err(|source| Error::Work { path, source })?;
        }
        Ok(())
    }

    /// Removes the folder, with what this type put there; anything else stays.
    pub fn remove(self) {
        for path in self.own_files().into_iter().flatten() {
            if is_regular(&path).unwrap_or(false) {
                let _ = fs::remove_file(&path);
            }
        }
        let _ = fs::remove_file(self.folder.join(LOCK));
        let _ = fs::remove_dir(&self.folder);
    }

    /// Puts a whole file into place.
    fn place(&self, name: &str, content: &[u8]) -> Result<(), Error> {
        Ok(OutputFile::write_whole(&self.path(name), content, true)?)
    }

    /// Puts content into place, its digest behind it.
    fn save_sealed(&self, name: &str, mut content: Vec<u8>) -> Result<(), Error> {
        content.extend_from_slice(self.digest(name, &content).as_bytes());
        self.place(name, &content)
    }

    /// What [`Work::save_sealed`] has put into place, if it has: at most `max_bytes` of content.
    fn load_sealed(&self, name: &str, max_bytes: usize) -> Result<Option<Vec<u8>>, Error> {
        let max_bytes = max_bytes.saturating_add(DIGEST_BYTES);
        let Some(mut content) = read_file(&self.path(name), Links::Refuse, max_bytes)? else {
            return Ok(None);
        };
        let length = content.len().checked_sub(DIGEST_BYTES).ok_or_else(|| self.damaged(name))?;
        if self.digest(name, &content[..length]).as_bytes() != &content[length..] {
            return Err(self.damaged(name));
        }
        content.truncate(length);
        Ok(Some(content))
    }

    fn digest(&self, name: &str, content: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.key.as_bytes()).update(b"\0").update(name.as_bytes()).update(b"\0");
        hasher.update_rayon(content).finalize()
    }

    /// The error for a file that is not what was saved.
    pub fn damaged(&self, name: &str) -> Error {
        let remedy = "nothing was deleted; remove it to have it made again, or start over with --fresh";
        Error::WorkDamaged { path: self.path(name), remedy }
    }

    /// The error for an activation that is not that after the last solved block.
    pub fn streams_damaged(&self, name: &str) -> Error {
        Error::WorkDamaged {
            path: self.path(&format!("{name}.f32")),
            remedy: "it is not what the last solved block has left; nothing was deleted; --fresh starts over",
        }
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
        let mut content = (json.len() as u64).to_le_bytes().to_vec();
        content.extend_from_slice(&json);
        unit.tensors.iter().for_each(|(_, solved)| content.extend_from_slice(solved.tensor.bytes()));
        self.save_sealed(&unit_file(name), content)
    }

    /// Loads a unit, if it was saved: the tensors of `plan`, in its order.
    ///
    /// # Errors
    /// A file that is not what was saved, or that holds other tensors.
    pub fn load(&self, name: &str, plan: &[PlannedTensor]) -> Result<Option<Unit>, Error> {
        let name = unit_file(name);
        let tensors = plan.iter().map(|t| t.format.tensor_bytes(&t.shape).unwrap_or(0));
        let max_bytes = tensors.fold(8 + HEADER_BYTES, usize::saturating_add);
        let Some(content) = self.load_sealed(&name, max_bytes)? else { return Ok(None) };
        parse(&content, plan).map(Some).ok_or_else(|| self.damaged(&name))
    }

    /// Saves tokens.
    ///
    /// # Errors
    /// What the file system says.
    pub fn save_tokens(&self, name: &str, tokens: &[u32]) -> Result<(), Error> {
        self.save_sealed(&token_file(name), words(tokens.iter().map(|token| token.to_le_bytes())))
    }

    /// Loads tokens, if they were saved: `count` of them, each below `vocabulary`.
    ///
    /// # Errors
    /// A file that is not what was saved.
    pub fn load_tokens(
        &self,
        name: &str,
        count: usize,
        vocabulary: usize,
    ) -> Result<Option<Vec<u32>>, Error> {
        let name = token_file(name);
        let Some(found) = self.words(&name, count, u32::from_le_bytes)? else { return Ok(None) };
        if found.iter().any(|&token| token as usize >= vocabulary) {
            return Err(self.damaged(&name));
        }
        Ok(Some(found))
    }

    /// Whether numbers were saved under this name.
    ///
    /// # Errors
    /// What the file system says.
    pub fn has_numbers(&self, name: &str) -> Result<bool, Error> {
        let path = self.path(&number_file(name));
        match fs::symlink_metadata(&path) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(Error::Work { path, source }),
        }
    }

    /// Saves numbers.
    ///
    /// # Errors
    /// What the file system says.
    pub fn save_numbers(&self, name: &str, numbers: &[f32]) -> Result<(), Error> {
        self.save_sealed(&number_file(name), words(numbers.iter().map(|number| number.to_le_bytes())))
    }

    /// Loads `count` numbers that were saved.
    ///
    /// # Errors
    /// A file that is not what was saved, or not there.
    pub fn load_numbers(&self, name: &str, count: usize) -> Result<Vec<f32>, Error> {
        let name = number_file(name);
        self.words(&name, count, f32::from_le_bytes)?.ok_or_else(|| Error::WorkDamaged {
            path: self.path(&name),
            remedy: "it is missing; nothing was deleted; --fresh starts over",
        })
    }

    /// `count` words of a file, if it was saved.
    fn words<T>(
        &self,
        name: &str,
        count: usize,
        word: impl Fn([u8; 4]) -> T,
    ) -> Result<Option<Vec<T>>, Error> {
        let bytes = count.saturating_mul(4);
        let Some(content) = self.load_sealed(name, bytes)? else { return Ok(None) };
        if content.len() != bytes {
            return Err(self.damaged(name));
        }
        Ok(Some(content.as_chunks().0.iter().map(|bytes| word(*bytes)).collect()))
    }
}

fn words(words: impl ExactSizeIterator<Item = [u8; 4]>) -> Vec<u8> {
    let mut content = Vec::with_capacity(4 * words.len() + DIGEST_BYTES);
    words.for_each(|word| content.extend_from_slice(&word));
    content
}

fn unit_file(name: &str) -> String {
    format!("{name}.unit")
}

fn token_file(name: &str) -> String {
    format!("{name}.tokens")
}

fn number_file(name: &str) -> String {
    format!("{name}.sums")
}

fn is_temporary(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).and_then(temporary_of).is_some()
}

fn is_regular(path: &Path) -> Result<bool, Error> {
    match fs::symlink_metadata(path) {
        Ok(entry) => Ok(entry.is_file()),
        Err(source) => Err(Error::Work { path: path.to_owned(), source }),
    }
}

/// Whether a file of this name is one of a work folder: somebody may have named a folder that holds other things.
fn is_ours(name: &str) -> bool {
    let name = temporary_of(name).unwrap_or(name);
    let numbered = |stem: &str, kind: &str| {
        let number = stem.strip_prefix(kind);
        number.is_some_and(|n| n.len() >= 4 && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let unit = |stem: &str| stem == "embedding" || stem == "head" || numbered(stem, "block-");
    let stream = |stem: &str| {
        let of = stem.strip_suffix("-float").or_else(|| stem.strip_suffix("-quantized"));
        of.is_some_and(|of| ["residual-0", "residual-1", "input", "middle"].contains(&of))
    };
    name == KEY
        || name.strip_suffix(".unit").is_some_and(unit)
        || name.strip_suffix(".tokens").is_some_and(|stem| numbered(stem, "own-text-"))
        || name
            .strip_suffix(".sums")
            .is_some_and(|stem| stem == sensitivity::HEAD || numbered(stem, "sensitivity-"))
        || name.strip_suffix(".f32").is_some_and(stream)
}

/// The unit in a file's content, if it is the one that was planned.
fn parse(content: &[u8], plan: &[PlannedTensor]) -> Option<Unit> {
    let length = usize::try_from(u64::from_le_bytes(*content.first_chunk::<8>()?)).ok()?;
    let (json, mut data) = content[8..].split_at_checked(length)?;
    if json.len() > HEADER_BYTES {
        return None;
    }
    let header: Header = serde_json::from_slice(json).ok()?;
    if header.tensors.len() != plan.len() {
        return None;
    }
    let mut tensors = Vec::new();
    for (tensor, planned) in header.tensors.into_iter().zip(plan) {
        let (shape, format) = (Shape::new(&tensor.dimensions).ok()?, format::by_name(&tensor.format)?);
        let sums = [tensor.squared_error, tensor.squared_sum];
        if tensor.name != planned.name
            || shape != planned.shape
            || format != planned.format
            || sums.iter().any(|sum| !(sum.is_finite() && *sum >= 0.0))
            || !tensor.chosen.as_ref().is_none_or(is_sound)
        {
            return None;
        }
        let flag = |flag: &String| FLAGS.iter().copied().find(|known| known == flag);
        let flags = tensor.flags.iter().map(flag).collect::<Option<Vec<_>>>()?;
        let (own, rest) = data.split_at_checked(format.tensor_bytes(&shape).ok()?)?;
        data = rest;
        let solved = Solved {
            tensor: Tensor::new(shape, format, Bytes::from(own.to_vec())).ok()?,
            squared_error: tensor.squared_error,
            squared_sum: tensor.squared_sum,
            not_finite: None,
            overflow: None,
            chosen: tensor.chosen,
            flags,
        };
        tensors.push((tensor.name, solved));
    }
    data.is_empty().then_some(Unit { tensors, residuals: header.residuals })
}

/// Whether settings are such as a method may have chosen: the next blocks take them over.
fn is_sound(settings: &crate::Settings) -> bool {
    let damping = |x: f32| x.is_finite() && x >= 0.0;
    damping(settings.damping)
        && settings.correction_damping.is_none_or(damping)
        && settings.sweeps <= MAX_SWEEPS
}

/// Opens the work folder of the run called `key` and reads `unit` (the tensors of `plan`), `tokens` and `sums` (`count`
/// words each) as a run that goes on would: for tests with hostile folders.
///
/// # Errors
/// As those of such a run.
pub fn read_work_folder(
    folder: &Path,
    key: &str,
    [unit, tokens, sums]: [&str; 3],
    plan: &[PlannedTensor],
    count: usize,
) -> Result<(), Error> {
    let work = Work::open(folder, key, false)?;
    work.load(unit, plan)?;
    work.load_tokens(tokens, count, count)?;
    if work.has_numbers(sums)? {
        work.load_numbers(sums, count)?;
    }
    Ok(())
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

    fn key(of: &str) -> String {
        blake3::hash(of.as_bytes()).to_hex().to_string()
    }

    fn plan() -> Vec<PlannedTensor> {
        let shape = Shape::new(&[2, 32]).unwrap();
        vec![PlannedTensor { name: "a.weight".into(), shape, format: &format::Q4_0 }]
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_loaded_is_what_was_saved() {
        let folder = tempfile::tempdir().unwrap();
        let work = Work::open(folder.path(), &key("one"), false).unwrap();
        assert!(work.load("block-0000", &plan()).unwrap().is_none());
        work.save("block-0000", &unit(7)).unwrap();
        let loaded = work.load("block-0000", &plan()).unwrap().unwrap();
        let (expected, found) = (&unit(7).tensors[0], &loaded.tensors[0]);
        assert_eq!(found.0, expected.0);
        assert!(found.1.tensor.bytes()[..] == expected.1.tensor.bytes()[..]);
        assert_eq!(found.1.squared_sum, expected.1.squared_sum);
        assert_eq!((&found.1.flags, found.1.chosen), (&expected.1.flags, expected.1.chosen));
        assert_eq!(loaded.residuals, unit(7).residuals);
        assert!(work.load_tokens("own-text-0000", 2, 9).unwrap().is_none());
        work.save_tokens("own-text-0000", &[7, 8]).unwrap();
        assert_eq!(work.load_tokens("own-text-0000", 2, 9).unwrap().unwrap(), [7, 8]);
        for (count, vocabulary) in [(1, 9), (3, 9), (2, 8), (usize::MAX, 9)] {
            assert!(work.load_tokens("own-text-0000", count, vocabulary).is_err(), "{count} {vocabulary}");
        }
        work.save_numbers("head-input", &[0.5, f32::NAN]).unwrap();
        assert_eq!(work.load_numbers("head-input", 2).unwrap()[0], 0.5);
        assert!(work.load_numbers("head-input", 1).is_err() && work.load_numbers("head-input", 3).is_err());
        std::fs::write(work.path("own-text-0000.tokens"), [0; 40]).unwrap();
        assert!(matches!(work.load_tokens("own-text-0000", 2, 9), Err(Error::WorkDamaged { .. })));
        let path = work.path("block-0000.unit");
        let good = std::fs::read(&path).unwrap();
        for at in (0..good.len()).step_by(7) {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            assert!(matches!(work.load("block-0000", &plan()), Err(Error::WorkDamaged { .. })), "byte {at}");
            std::fs::write(&path, &good[..at]).unwrap();
            assert!(
                matches!(work.load("block-0000", &plan()), Err(Error::WorkDamaged { .. })),
                "cut at {at}"
            );
        }
    }

    #[test]
    fn a_file_of_another_run_or_under_another_name_is_refused() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let work = ["one", "two"].map(key).into_iter().zip(&folders);
        let [one, two]: [Work; 2] = work
            .map(|(key, folder)| Work::open(folder.path(), &key, false).unwrap())
            .collect::<Vec<_>>()
            .try_into()
            .unwrap_or_else(|_| unreachable!());
        one.save("block-0000", &unit(7)).unwrap();
        for to in [one.path("block-0001.unit"), two.path("block-0000.unit")] {
            fs::copy(one.path("block-0000.unit"), to).unwrap();
        }
        assert!(one.load("block-0000", &plan()).unwrap().is_some());
        assert!(matches!(one.load("block-0001", &plan()), Err(Error::WorkDamaged { .. })));
        assert!(matches!(two.load("block-0000", &plan()), Err(Error::WorkDamaged { .. })));
    }

    /// Whoever knows the key can make any digest.
    #[test]
    fn a_unit_with_a_digest_holds_the_planned_tensors() {
        let folder = tempfile::tempdir().unwrap();
        let work = Work::open(folder.path(), &key("one"), false).unwrap();
        let header = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut json = serde_json::json!({
                "tensors": [{ "name": "a.weight", "format": "q4_0", "dimensions": [2, 32], "squared_error": 0.1,
                    "squared_sum": 0.2, "flags": [], "chosen": null }],
                "residuals": null
            });
            change(&mut json);
            json.to_string()
        };
        let load = |json: &str, length: u64, data: usize| {
            let content = [&length.to_le_bytes()[..], json.as_bytes(), &vec![0; data]].concat();
            work.save_sealed("head.unit", content).unwrap();
            work.load("head", &plan())
        };
        let whole = header(&|_| {});
        assert!(load(&whole, whole.len() as u64, 36).unwrap().is_some());
        for (length, data) in
            [(whole.len() as u64, 35), (whole.len() as u64, 37), (u64::MAX, 36), (0, 36), (1 << 40, 36)]
        {
            assert!(load(&whole, length, data).is_err(), "{length} {data}");
        }
        let set = |pointer: &'static str, value: serde_json::Value| {
            header(&|json| *json.pointer_mut(pointer).expect("a place in the header") = value.clone())
        };
        use serde_json::json;
        for changed in [
            set("/tensors/0/name", json!("b.weight")),
            set("/tensors/0/format", json!("q8_0")),
            set("/tensors/0/format", json!("nothing")),
            set("/tensors/0/dimensions", json!([1, 64])),
            set("/tensors/0/dimensions", json!([2, 64])),
            set("/tensors/0/dimensions", json!([])),
            set("/tensors/0/dimensions", json!([u64::MAX, u64::MAX])),
            set("/tensors/0/dimensions", json!(vec![1; 1000])),
            set("/tensors/0/squared_sum", json!(-1.0)),
            set("/tensors/0/flags", json!(["unheard-of"])),
            set("/tensors/0/chosen", json!({ "damping": -1.0, "correction_damping": null, "sweeps": 1 })),
            set(
                "/tensors/0/chosen",
                json!({ "damping": 1.0, "correction_damping": null, "sweeps": u64::MAX }),
            ),
            set("/tensors", json!([])),
            header(&|json| {
                let tensors = json["tensors"].as_array_mut().unwrap();
                tensors.push(tensors[0].clone());
            }),
            "[".repeat(1 << 16),
            " ".repeat(HEADER_BYTES + 1),
        ] {
            let error = load(&changed, changed.len() as u64, 36).err().expect("an error");
            assert!(error.to_string().contains("head.unit"), "{error}");
        }
    }

    #[test]
    fn a_folder_belongs_to_one_run_and_other_files_stay() {
        let folder = tempfile::tempdir().unwrap();
        let theirs = ["block-1.unit", "download.part", "notes.unit", "samples.f32"];
        theirs.iter().for_each(|name| std::fs::write(folder.path().join(name), name).unwrap());
        let open = |of: &str, fresh| Work::open(folder.path(), &key(of), fresh);
        let work = open("one", false).unwrap();
        work.save("head", &unit(1)).unwrap();
        assert!(matches!(open("one", false), Err(Error::WorkInUse { .. })));
        drop(work);
        assert!(matches!(open("two", false), Err(Error::WorkOfAnother { .. })));
        let work = open("one", false).unwrap();
        assert!(work.load("head", &plan()).unwrap().is_some());
        drop(work);
        let work = open("two", true).unwrap();
        assert!(work.load("head", &plan()).unwrap().is_none());
        work.remove();
        assert_eq!(names(folder.path()), theirs);
    }

    #[test]
    fn a_damaged_key_keeps_everything() {
        let folder = tempfile::tempdir().unwrap();
        let open = |fresh| Work::open(folder.path(), &key("one"), fresh);
        open(false).unwrap().save("head", &unit(1)).unwrap();
        let path = folder.path().join(KEY);
        let all = names(folder.path());
        for bytes in [&b""[..], b"\xff\xfe", &[b'a'; 63], &[b'g'; 64], &[b'a'; 5000]] {
            fs::write(&path, bytes).unwrap();
            assert!(open(false).err().expect("an error").to_string().contains("key"));
            assert_eq!(names(folder.path()), all);
        }
        fs::remove_file(&path).unwrap();
        assert!(matches!(open(false), Err(Error::WorkWithoutKey { .. })));
        // Remains of a run that was killed before its key was there are no work.
        fs::remove_file(folder.path().join("head.unit")).unwrap();
        fs::write(folder.path().join(".key.Ab3dEf.part"), "half").unwrap();
        drop(open(false).unwrap());
        assert_eq!(names(folder.path()), [KEY, LOCK]);
        fs::write(&path, b"\xff").unwrap();
        drop(open(true).unwrap());
        assert_eq!(fs::read(&path).unwrap(), key("one").as_bytes());
    }

    #[cfg(unix)]
    #[test]
    fn links_are_neither_followed_nor_removed() {
        use std::os::unix::fs::symlink;
        let root = tempfile::tempdir().unwrap();
        let (folder, victim) = (root.path().join("work"), root.path().join("victim"));
        fs::write(&victim, "precious").unwrap();
        let open = |fresh| Work::open(&folder, &key("one"), fresh);
        for name in [KEY, LOCK, "head.unit", "own-text-0000.tokens", "head-input.sums", "input-float.f32"] {
            for hard in [false, true] {
                fs::create_dir(&folder).unwrap();
                if name != KEY {
                    fs::write(folder.join(KEY), key("one")).unwrap();
                }
                let link = folder.join(name);
                if hard {
                    fs::hard_link(&victim, &link).unwrap()
                } else {
                    symlink("../victim", &link).unwrap()
                }
                let read = || -> Result<(), Error> {
                    let work = open(false)?;
                    work.load("head", &plan())?;
                    work.load_tokens("own-text-0000", 2, 9)?;
                    work.load_numbers("head-input", 2)?;
                    crate::activations::Activations::open(&work.path("input-float.f32"), 1).map(drop)
                };
                let error = read().unwrap_err().to_string();
                assert!(
                    error.contains(name) || name == "input-float.f32" && error.contains("head-input"),
                    "{error}"
                );
                assert!(link.symlink_metadata().is_ok(), "{name}");
                if !hard {
                    assert!(open(true).is_err(), "{name}: --fresh");
                    assert!(link.symlink_metadata().is_ok(), "{name}: --fresh");
                }
                assert_eq!(fs::read(&victim).unwrap(), b"precious", "{name}");
                fs::remove_dir_all(&folder).unwrap();
            }
        }
        symlink("elsewhere", &folder).unwrap();
        fs::create_dir(root.path().join("elsewhere")).unwrap();
        for spelling in [folder.clone(), folder.join(""), folder.join("."), "".into(), victim.clone()] {
            assert!(matches!(Work::open(&spelling, &key("one"), true), Err(Error::WorkFolder { .. })));
        }
        assert_eq!(names(&root.path().join("elsewhere")), [""; 0]);
    }
}
