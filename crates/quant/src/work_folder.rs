//! The work folder keeps the solved parts of an unfinished run, so that the same command resumes from there.
//!
//! A unit is the embedding, one block or the output head. Each unit has one file: a JSON header, the tensors' bytes, a
//! digest. The file is written under a temporary name and renamed when it is complete. A block's file also stores the
//! digests of the residual streams after the block. The folder also holds self-generated tokens and sums of gradients.
//!
//! The key is a hash of input, recipe and calibration text. A folder with another key belongs to another run. A digest
//! is blake3 over the key, the file's name and its content. So a file of another run, or under another name, is
//! rejected.
//!
//! Invariants: Loading returns exactly the saved content, or an error. A file that cannot be loaded causes an error and
//! is not deleted. Two runs never share a folder. Links are never followed, and only regular files are read, replaced
//! or removed. A person who can write to the folder and knows its key can compute valid digests; this module does not
//! protect against this. Not covered here: the content of a unit; see `walk/unit.rs`.

use crate::Error;
use kvant_io::{Links, OutputFile, open_for_update, read_file, temporary_of};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// Name of the file with the run's key.
pub const KEY: &str = "key";
/// Name of the file that is locked while a run is active.
pub const LOCK: &str = "lock";
const DIGEST_BYTES: usize = 32;

/// Name of the embedding's unit. This and the following names are file names without an extension.
pub const EMBEDDING: &str = "embedding";
/// Name of the output head's unit.
pub const HEAD: &str = "head";
/// Name of the Gram matrix of the output head's input: Σ x xᵀ over tokens, where x is the input of the output head
/// (hidden values). The matrix has hidden × hidden floats; only its lower triangle is valid.
pub const HEAD_INPUT: &str = "head-input";
const BLOCK: &str = "block-";
const SELF_GENERATED: &str = "own-text-";
const SENSITIVITY: &str = "sensitivity-";

/// Returns the name of the unit of block `index`.
pub fn block(index: usize) -> String {
    format!("{BLOCK}{index:04}")
}

/// Returns the name of batch `batch` of self-generated text. The first batch is 0.
pub fn self_generated(batch: usize) -> String {
    format!("{SELF_GENERATED}{batch:04}")
}

/// Returns the name of the gradient sums of the linear layers (maps) of block `block`.
pub fn sensitivity(block: usize) -> String {
    format!("{SENSITIVITY}{block:04}")
}

/// A locked work folder.
pub struct WorkFolder {
    folder: PathBuf,
    key: String,
    _lock: File,
}

/// Checks, before any work, that the path can be a work folder. Returns the path without trailing separators.
///
/// # Errors
/// [`Error::WorkFolder`] for an empty name, a link, or an entry that is not a folder; errors of the file system.
pub fn check_work_folder(folder: &Path) -> Result<PathBuf, Error> {
    // The file system follows a link if a slash follows its name, so trailing slashes are removed.
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
    /// Creates or opens the folder for the run with this `key`. If `fresh` is true, deletes the saved work.
    ///
    /// # Errors
    /// A folder that another process uses or that belongs to another run; saved work without a key; a key that cannot
    /// be read; errors of the file system. On these errors nothing is deleted.
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
            work.clear()?;
        } else if work.has_key()? {
            return Ok(work);
        } else if work.own_files()?.iter().any(|path| !is_temporary(path)) {
            return Err(Error::WorkWithoutKey { path: work.folder });
        }
        work.write_file(KEY, key.as_bytes())?;
        Ok(work)
    }

    /// Returns true if the folder has this run's key, false if it has no key, and an error if it has another key.
    fn has_key(&self) -> Result<bool, Error> {
        let path = self.path(KEY);
        let damaged =
            || Error::WorkDamaged { path: path.clone(), remedy: "nothing was deleted; --fresh starts over" };
        let Some(found) = read_file(&path, Links::Refuse, 4096).map_err(|e| damaged_if_large(e, damaged))?
        else {
            return Ok(false);
        };
        if found == self.key.as_bytes() {
            return Ok(true);
        }
        let is_key = found.len() == self.key.len() && found.iter().all(u8::is_ascii_hexdigit);
        Err(if is_key { Error::WorkOfAnother { path: self.folder.clone() } } else { damaged() })
    }

    /// Returns the path of the file `name` in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Returns the paths of all entries whose names this type uses. The key's path is the last one.
    fn own_files(&self) -> Result<Vec<PathBuf>, Error> {
        let fail = |source| Error::Work { path: self.folder.clone(), source };
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            if path.file_name().and_then(|name| name.to_str()).is_some_and(is_own_name) {
                found.push(path);
            }
        }
        // Deletion follows this order. If the deletion is interrupted, the key and the last units remain, and a resumed
        // run solves the first units again.
        found.sort_by_key(|path| (path.ends_with(KEY), path.clone()));
        Ok(found)
    }

    /// Removes all regular files with names that this type uses, and nothing else.
    ///
    /// # Errors
    /// An entry that has one of these names but is not a regular file; on this error nothing is removed. Errors of the
    /// file system.
    fn clear(&self) -> Result<(), Error> {
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

    /// Removes this type's files, but no other files. Removes the folder too if it holds no other files.
    pub fn remove(self) {
        for path in self.own_files().into_iter().flatten() {
            if is_regular(&path).unwrap_or(false) {
                let _ = fs::remove_file(&path);
            }
        }
        let _ = fs::remove_file(self.folder.join(LOCK));
        let _ = fs::remove_dir(&self.folder);
    }

    /// Writes a whole file under a temporary name, and renames it when it is complete.
    fn write_file(&self, name: &str, content: &[u8]) -> Result<(), Error> {
        Ok(OutputFile::write_whole(&self.path(name), content, true)?)
    }

    /// Saves the content and then the digest of the content.
    pub fn save_sealed(&self, name: &str, mut content: Vec<u8>) -> Result<(), Error> {
        content.extend_from_slice(self.digest(name, &content).as_bytes());
        self.write_file(name, &content)
    }

    /// Loads content that [`WorkFolder::save_sealed`] has saved, at most `max_bytes`; `None` if no file has this name.
    pub fn load_sealed(&self, name: &str, max_bytes: usize) -> Result<Option<Vec<u8>>, Error> {
        let max_bytes = max_bytes.saturating_add(DIGEST_BYTES);
        let read = read_file(&self.path(name), Links::Refuse, max_bytes);
        let Some(mut content) = read.map_err(|e| damaged_if_large(e, || self.damaged(name)))? else {
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

    /// Returns the error for a file whose content is not the saved content.
    pub fn damaged(&self, name: &str) -> Error {
        let remedy = "nothing was deleted; remove it to have it made again, or start over with --fresh";
        Error::WorkDamaged { path: self.path(name), remedy }
    }

    /// Returns the error for a residual stream that does not match the last solved block.
    pub fn streams_damaged(&self, name: &str) -> Error {
        Error::WorkDamaged {
            path: self.path(&format!("{name}.f32")),
            remedy: "it is not what the last solved block has left; nothing was deleted; --fresh starts over",
        }
    }

    /// Saves tokens.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn save_tokens(&self, name: &str, tokens: &[u32]) -> Result<(), Error> {
        self.save_sealed(&token_file(name), words(tokens.iter().map(|token| token.to_le_bytes())))
    }

    /// Loads `count` tokens, each below `vocabulary`; `None` if no tokens were saved under this name.
    ///
    /// # Errors
    /// A file whose content is not the saved content.
    pub fn load_tokens(
        &self,
        name: &str,
        count: usize,
        vocabulary: usize,
    ) -> Result<Option<Vec<u32>>, Error> {
        let name = token_file(name);
        let Some(found) = self.load_words(&name, count, u32::from_le_bytes)? else { return Ok(None) };
        if found.iter().any(|&token| token as usize >= vocabulary) {
            return Err(self.damaged(&name));
        }
        Ok(Some(found))
    }

    /// Returns true if floats were saved under this name.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn has_floats(&self, name: &str) -> Result<bool, Error> {
        let path = self.path(&float_file(name));
        match fs::symlink_metadata(&path) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(Error::Work { path, source }),
        }
    }

    /// Saves floats.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn save_floats(&self, name: &str, values: &[f32]) -> Result<(), Error> {
        self.save_sealed(&float_file(name), words(values.iter().map(|value| value.to_le_bytes())))
    }

    /// Loads `count` saved floats.
    ///
    /// # Errors
    /// A missing file, or a file whose content is not the saved content.
    pub fn load_floats(&self, name: &str, count: usize) -> Result<Vec<f32>, Error> {
        let name = float_file(name);
        self.load_words(&name, count, f32::from_le_bytes)?.ok_or_else(|| Error::WorkDamaged {
            path: self.path(&name),
            remedy: "it is missing; nothing was deleted; --fresh starts over",
        })
    }

    /// Loads `count` little-endian 32-bit words of a file; `None` if the file was not saved. `word` decodes one word.
    fn load_words<T>(
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

/// Returns the words as bytes, with spare capacity for a digest.
fn words(words: impl ExactSizeIterator<Item = [u8; 4]>) -> Vec<u8> {
    let mut content = Vec::with_capacity(4 * words.len() + DIGEST_BYTES);
    words.for_each(|word| content.extend_from_slice(&word));
    content
}

/// Converts an error of reading. A file that is too large cannot be the saved file, so it is reported as damaged.
fn damaged_if_large(error: kvant_io::Error, damaged: impl Fn() -> Error) -> Error {
    if matches!(error, kvant_io::Error::Limit { .. }) { damaged() } else { error.into() }
}

fn token_file(name: &str) -> String {
    format!("{name}.tokens")
}

fn float_file(name: &str) -> String {
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

/// Returns true if a work folder uses this file name. The user may choose a folder that also holds other files, and
/// those files must not be deleted.
fn is_own_name(name: &str) -> bool {
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
