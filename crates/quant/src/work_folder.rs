//! The work folder: what an unfinished run has already solved, so that the same command goes on from there.
//!
//! One file a unit (embedding, each block, head), renamed into place when the unit is done: a JSON header, the
//! tensors' bytes, a digest; and the tokens of text that the network has written, and sums of its gradients. A block's
//! file also carries the digests of the residual streams after it. The key names input, recipe and calibration text; a
//! folder with another key is another run's. Digests are blake3 over the key, the file's name and its content, so a file
//! of another run or under another name is not taken for this one.
//!
//! Invariant: what is loaded is what was saved and what the run has planned, or an error; a file that cannot be loaded is an
//! error and stays where it is; two runs never share a folder. No link is followed, and only regular files are read, replaced
//! or removed. Left out: what a unit means; protection from somebody who may write to the folder and knows its key.

use crate::Error;
use kvant_io::{Links, OutputFile, open_for_update, read_file, temporary_of};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// The file that names the run.
pub const KEY: &str = "key";
/// The file that is locked as long as a run is at work.
pub const LOCK: &str = "lock";
/// Bytes of a digest.
const DIGEST_BYTES: usize = 32;

/// The unit of the embedding.
pub const EMBEDDING: &str = "embedding";
/// The unit of the output head.
pub const HEAD: &str = "head";
/// The sums over the head's input: Σ x xᵀ, hidden × hidden, of which the lower triangle counts.
pub const HEAD_INPUT: &str = "head-input";
const BLOCK: &str = "block-";
const SELF_GENERATED: &str = "own-text-";
const SENSITIVITY: &str = "sensitivity-";

/// The unit of a block.
pub fn block(index: usize) -> String {
    format!("{BLOCK}{index:04}")
}

/// A batch of self-generated text.
pub fn self_generated(batch: usize) -> String {
    format!("{SELF_GENERATED}{batch:04}")
}

/// The sums of gradients at a block's maps.
pub fn sensitivity(block: usize) -> String {
    format!("{SENSITIVITY}{block:04}")
}

/// A locked work folder.
pub struct WorkFolder {
    folder: PathBuf,
    key: String,
    _lock: File,
}

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

impl WorkFolder {
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
        let damaged =
            || Error::WorkDamaged { path: path.clone(), remedy: "nothing was deleted; --fresh starts over" };
        let Some(found) = read_file(&path, Links::Refuse, 4096).map_err(|e| or_large(e, damaged))? else {
            return Ok(false);
        };
        if found == self.key.as_bytes() {
            return Ok(true);
        }
        let is_key = found.len() == self.key.len() && found.iter().all(u8::is_ascii_hexdigit);
        Err(if is_key { Error::WorkOfAnother { path: self.folder.clone() } } else { damaged() })
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
    pub fn save_sealed(&self, name: &str, mut content: Vec<u8>) -> Result<(), Error> {
        content.extend_from_slice(self.digest(name, &content).as_bytes());
        self.place(name, &content)
    }

    /// Loads content that [`WorkFolder::save_sealed`] has put into place: at most `max_bytes`.
    pub fn load_sealed(&self, name: &str, max_bytes: usize) -> Result<Option<Vec<u8>>, Error> {
        let max_bytes = max_bytes.saturating_add(DIGEST_BYTES);
        let read = read_file(&self.path(name), Links::Refuse, max_bytes);
        let Some(mut content) = read.map_err(|e| or_large(e, || self.damaged(name)))? else {
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

/// An error of reading; a file that is too large is not the one that was saved.
fn or_large(error: kvant_io::Error, damaged: impl Fn() -> Error) -> Error {
    if matches!(error, kvant_io::Error::Limit { .. }) { damaged() } else { error.into() }
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
    let unit = |stem: &str| stem == EMBEDDING || stem == HEAD || numbered(stem, BLOCK);
    let stream = |stem: &str| {
        let of = stem.strip_suffix("-float").or_else(|| stem.strip_suffix("-quantized"));
        of.is_some_and(|of| ["residual-0", "residual-1", "input", "middle"].contains(&of))
    };
    name == KEY
        || name.strip_suffix(".unit").is_some_and(unit)
        || name.strip_suffix(".tokens").is_some_and(|stem| numbered(stem, SELF_GENERATED))
        || name.strip_suffix(".sums").is_some_and(|stem| stem == HEAD_INPUT || numbered(stem, SENSITIVITY))
        || name.strip_suffix(".f32").is_some_and(stream)
}
