//! Writes all output files of the program. A check before the work finds outputs that cannot be written. An output file
//! is either complete or absent.
//!
//! The content is written to a temporary file in the output's folder, under an unpredictable name. Afterwards this file
//! is synced to the disk and renamed. Invariants: an output replaces only a regular file, and only with `force`. A
//! symbolic link at the output's name is never followed. The writing process holds a lock on the temporary file. A
//! later run removes a temporary file only if no process holds its lock, because such a file is left over from a killed
//! process. Not covered here: protection against a user who can rename the parent folders of the output.

use crate::Error;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Component, Path, PathBuf};
use tempfile::NamedTempFile;

/// Number of random characters in the name of a temporary file.
const RANDOM: usize = 6;
/// The end of the name of a temporary file.
const SUFFIX: &str = ".part";
/// Largest length in bytes of an output's name that is copied into the name of its temporary file. A longer name is
/// replaced by its hash, because file systems allow at most 255 bytes for a name.
const MAX_STEM_BYTES: usize = 120;

/// An output file that is being written. If it is dropped before [`OutputFile::finish`], its temporary file is deleted.
#[derive(Debug)]
pub struct OutputFile {
    /// Final path of the output.
    path: PathBuf,
    /// The locked temporary file.
    file: NamedTempFile,
    /// Size of the finished file in bytes, for the message of [`Error::DiskFull`].
    bytes: u64,
    /// True if the output may replace an existing file.
    force: bool,
    /// Permission bits of the file that this output replaces; `None` if there was no such file.
    mode: Option<u32>,
}

impl OutputFile {
    /// Checks before the work that an output can be written.
    ///
    /// # Errors
    /// [`Error::Exists`] if the file exists and `force` is false. [`Error::NotWritable`] for a symbolic link, for
    /// anything else that is not a regular file, and for a file of another user that this process may not replace.
    /// [`Error::OutputName`] if the path names a folder, or if the parent folder does not exist. [`Error::Io`] if no
    /// file can be created in the parent folder.
    pub fn check(path: &Path, force: bool) -> Result<(), Error> {
        let replaced = replaced(path, force)?;
        // No system call checks access rights, read-only file systems and quotas together. The creation of a trial file
        // checks all of them.
        let trial = temporary(path, Some(0o600)).map_err(|source| failed(path, CREATING, source, 0))?;
        match replaced {
            Some(existing) if belongs_to_another(path, &existing, &trial)? => Err(Error::NotWritable {
                path: path.into(),
                reason: "it belongs to somebody else, and its folder lets only owners replace a file; choose another name",
            }),
            _ => Ok(()),
        }
    }

    /// Checks all outputs of a command. No two outputs may be the same file, and no output may replace a file of
    /// `inputs`. A model folder in `inputs` means the model's files in this folder. Every output must also pass
    /// [`OutputFile::check`].
    ///
    /// # Errors
    /// [`Error::SameFile`] if an output is the same file as another output or an input; the errors of
    /// [`OutputFile::check`].
    pub fn check_all(outputs: &[&Path], inputs: &[&Path], force: bool) -> Result<(), Error> {
        Self::check_apart(outputs)?;
        let files: Vec<PathBuf> = inputs.iter().flat_map(|input| files_of(input)).collect();
        for output in outputs {
            if let Some(input) = files.iter().find(|input| input.exists() && place(input) == place(output)) {
                return Err(Error::SameFile { path: output.into(), other: input.clone() });
            }
            Self::check(output, force)?;
        }
        Ok(())
    }

    /// Checks that no two of `paths` lead to the same file.
    ///
    /// # Errors
    /// [`Error::SameFile`] if two paths lead to the same file.
    pub fn check_apart(paths: &[&Path]) -> Result<(), Error> {
        for (i, path) in paths.iter().enumerate() {
            if let Some(other) = paths[..i].iter().find(|other| place(other) == place(path)) {
                return Err(Error::SameFile { path: path.into(), other: other.into() });
            }
        }
        Ok(())
    }

    /// Creates the temporary file of an output. `bytes` is the size of the finished file. Also removes temporary files
    /// of the same output that killed processes left.
    ///
    /// # Errors
    /// The errors of [`OutputFile::check`].
    pub fn create(path: &Path, bytes: u64, force: bool) -> Result<Self, Error> {
        let mode = replaced(path, force)?.map(|existing| mode(&existing));
        clear_remains(path);
        // The file that is replaced may be private. So only the owner can read the temporary file until
        // [`OutputFile::finish`].
        let file = temporary(path, mode.map(|_| 0o600));
        let file = file.map_err(|source| failed(path, CREATING, source, bytes))?;
        Ok(Self { path: path.into(), file, bytes, force, mode })
    }

    /// Writes a complete output file with this content.
    ///
    /// # Errors
    /// The errors of [`OutputFile::check`]; [`Error::DiskFull`] if the disk has no room.
    pub fn write_whole(path: &Path, content: &[u8], force: bool) -> Result<(), Error> {
        let mut output = Self::create(path, content.len() as u64, force)?;
        output.write(content)?;
        output.finish()
    }

    /// Writes `content` directly after the bytes of the last write.
    ///
    /// # Errors
    /// [`Error::DiskFull`] if the disk has no room; [`Error::Io`] for other errors of the file system.
    pub fn write(&mut self, content: &[u8]) -> Result<(), Error> {
        self.file.write_all(content).map_err(|source| self.failed("writing", source))
    }

    /// Writes `content` at `offset`, in bytes from the beginning of the file.
    ///
    /// # Errors
    /// The errors of [`OutputFile::write`].
    pub fn write_at(&mut self, offset: u64, content: &[u8]) -> Result<(), Error> {
        self.file.seek(SeekFrom::Start(offset)).map_err(|source| self.failed("writing", source))?;
        self.write(content)
    }

    /// The open temporary file.
    pub fn file(&self) -> &File {
        self.file.as_file()
    }

    /// Path of the temporary file, which holds the content until [`OutputFile::finish`].
    pub fn temporary_path(&self) -> &Path {
        self.file.path()
    }

    /// Path of the output.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the error for a failed operation on this file. `doing` names the operation in the message.
    pub fn failed(&self, doing: &'static str, source: io::Error) -> Error {
        failed(&self.path, doing, source, self.bytes)
    }

    /// Forces the file to the disk and renames it to its final name. The file gets the permissions of the file that it
    /// replaces, else the permissions of a new file.
    ///
    /// # Errors
    /// [`Error::Exists`] if another process has created the output in the meantime and `force` is false.
    /// [`Error::NotWritable`] if a link or folder has taken the output's name. [`Error::Io`] for errors of the file
    /// system.
    pub fn finish(self) -> Result<(), Error> {
        let mode = replaced(&self.path, self.force)?.map(|existing| mode(&existing)).or(self.mode);
        if let Some(mode) = mode {
            set_mode(self.file(), mode)
                .map_err(|source| self.failed("setting the permissions of", source))?;
        }
        self.file().sync_all().map_err(|source| self.failed("writing", source))?;
        let Self { path, file, force, .. } = self;
        let renamed = if force { file.persist(&path) } else { file.persist_noclobber(&path) };
        match renamed {
            Ok(_) => {
                // The content is already safe on the disk. This syncs the new name. Without it a power cut may only
                // undo the rename, so an error here is ignored.
                let _ = File::open(folder(&path)).and_then(|folder| folder.sync_all());
                Ok(())
            }
            Err(e) if e.error.kind() == io::ErrorKind::AlreadyExists => Err(Error::Exists { path }),
            Err(e) => Err(Error::Io { path, doing: "renaming the temporary file to it", source: e.error }),
        }
    }
}

const CREATING: &str = "creating a temporary file beside it";

/// Makes the error for a failed operation. `needed` is the size of the finished file in bytes.
fn failed(path: &Path, doing: &'static str, source: io::Error, needed: u64) -> Error {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Error::DiskFull { path: path.into(), doing, needed }
        }
        // `source` contains the random name of the temporary file, which does not help the user. So only the kind of
        // the error is kept.
        kind if doing == CREATING => Error::Io { path: path.into(), doing, source: kind.into() },
        _ => Error::Io { path: path.into(), doing, source },
    }
}

/// The parent folder of an output; `.` for a plain file name.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Returns the metadata of the regular file that the output would replace, or `None` if nothing exists at `path`.
/// Returns an error if the output must not be written there.
fn replaced(path: &Path, force: bool) -> Result<Option<Metadata>, Error> {
    let refuse = |reason| Err(Error::NotWritable { path: path.into(), reason });
    let refuse_name = |reason| Err(Error::OutputName { path: path.into(), reason });
    let fail = |source| Error::Io { path: path.into(), doing: "looking at it before writing", source };
    let bytes = path.as_os_str().as_encoded_bytes();
    let start = bytes.iter().rposition(|&b| std::path::is_separator(char::from(b))).map_or(0, |at| at + 1);
    if bytes.is_empty() {
        return refuse_name("its name is empty");
    }
    // `Path` ignores a slash or a dot at the end of a path, but the file system does not.
    if matches!(&bytes[start..], b"" | b"." | b"..") {
        return refuse_name("that names a folder; give the name of a file");
    }
    match fs::metadata(folder(path)) {
        Ok(entry) if entry.is_dir() => {}
        Ok(_) => return refuse_name("it would lie in what is no folder; choose another place"),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return refuse_name("its folder does not exist; create the folder first");
        }
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
            return refuse_name("it would lie in what is no folder; choose another place");
        }
        Err(e) => return Err(fail(e)),
    }
    match fs::symlink_metadata(path) {
        Ok(entry) if entry.is_symlink() => {
            refuse("a symbolic link is there, which is neither followed nor replaced; choose another name")
        }
        Ok(entry) if entry.is_dir() => refuse("a folder is there; choose another name"),
        Ok(entry) if !entry.is_file() => {
            refuse("a pipe, device or socket is there, which is never replaced; choose another name")
        }
        Ok(_) if !force => Err(Error::Exists { path: path.into() }),
        Ok(entry) => Ok(Some(entry)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(fail(e)),
    }
}

/// The part of a temporary file's name that identifies its output: the output's name, or the hash of a long name.
fn stem(path: &Path) -> OsString {
    let name = path.file_name().unwrap_or_default();
    if name.len() <= MAX_STEM_BYTES {
        return name.to_owned();
    }
    blake3::hash(name.as_encoded_bytes()).to_hex().as_str().into()
}

/// The beginning of the names of an output's temporary files: `.STEM.`.
fn prefix(path: &Path) -> OsString {
    [OsStr::new("."), &stem(path), OsStr::new(".")].into_iter().collect()
}

/// Creates and locks a temporary file in the folder of `path`. If `mode` is `None`, the file gets the permissions of a
/// new file.
fn temporary(path: &Path, mode: Option<u32>) -> io::Result<NamedTempFile> {
    let prefix = prefix(path);
    loop {
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(SUFFIX).rand_bytes(RANDOM);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // The system clears the bits that the umask forbids.
            builder.permissions(fs::Permissions::from_mode(mode.unwrap_or(0o666)));
        }
        let file = builder.tempfile_in(folder(path))?;
        let locked = file.as_file().try_lock();
        // Between the creation and the lock, another process may have removed the file as left over. Then the loop
        // creates another file.
        let cleared = matches!(locked, Err(fs::TryLockError::WouldBlock)) || is_unlinked(file.as_file());
        if !cleared {
            return Ok(file);
        }
    }
}

/// Removes the temporary files of this output that no running process has locked. Errors are ignored, because the
/// output does not depend on this removal.
fn clear_remains(path: &Path) {
    let prefix = prefix(path);
    for entry in fs::read_dir(folder(path)).into_iter().flatten().flatten() {
        if !is_temporary(&entry.file_name(), &prefix) {
            continue;
        }
        let remains = entry.path();
        if let Ok(file) = crate::open_regular(&remains, crate::Links::Refuse)
            && file.try_lock().is_ok()
        {
            let _ = fs::remove_file(&remains);
        }
    }
}

/// True if `name` is the name of a temporary file with this prefix.
fn is_temporary(name: &OsStr, prefix: &OsStr) -> bool {
    let rest = name.as_encoded_bytes().strip_prefix(prefix.as_encoded_bytes());
    let random = rest.and_then(|rest| rest.strip_suffix(SUFFIX.as_bytes()));
    random.is_some_and(|random| random.len() == RANDOM && random.iter().all(u8::is_ascii_alphanumeric))
}

/// Returns the name of the output to which the temporary file `name` belongs; `None` if `name` is not the name of a
/// temporary file. For an output name of more than 120 bytes, the result is the hash of this name.
pub fn temporary_of(name: &str) -> Option<&str> {
    let stem = name.strip_prefix('.')?.strip_suffix(SUFFIX)?;
    let (stem, random) = stem.rsplit_once('.')?;
    (random.len() == RANDOM && random.bytes().all(|b| b.is_ascii_alphanumeric())).then_some(stem)
}

/// The files of an input: the input itself, and the model's files in its folder. A folder or a safetensors file has
/// such model files; for any other input the result is only the input.
fn files_of(input: &Path) -> Vec<PathBuf> {
    let safetensors = |path: &Path| path.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors"));
    let of_a_model = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        let kinds = [".safetensors", ".json", ".jinja", ".model", "merges.txt", "vocab.txt"];
        // Cards (`.card.json`) are outputs of this program and not files of the model.
        kinds.iter().any(|kind| name.ends_with(kind)) && !name.ends_with(".card.json")
    };
    let within = if input.is_dir() {
        input
    } else if safetensors(input) {
        folder(input)
    } else {
        return vec![input.to_owned()];
    };
    let entries = fs::read_dir(within).into_iter().flatten().flatten();
    [input.to_owned()].into_iter().chain(entries.map(|entry| entry.path()).filter(of_a_model)).collect()
}

/// The identity of the file at a path. Two paths to the same file have equal identities.
#[derive(PartialEq)]
enum Place {
    /// Device number and inode number of an existing file.
    File(u64, u64),
    /// Canonical path of a file that does not exist, and of every file on systems other than Unix.
    Name(PathBuf),
}

fn place(path: &Path) -> Place {
    #[cfg(unix)]
    if let Ok(entry) = fs::metadata(path) {
        use std::os::unix::fs::MetadataExt;
        return Place::File(entry.dev(), entry.ino());
    }
    let path: PathBuf = path.components().filter(|part| *part != Component::CurDir).collect();
    if let Ok(found) = fs::canonicalize(&path) {
        return Place::Name(found);
    }
    let name = path.file_name().unwrap_or_default();
    Place::Name(fs::canonicalize(folder(&path)).unwrap_or_else(|_| folder(&path).into()).join(name))
}

#[cfg(unix)]
fn mode(entry: &Metadata) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    entry.permissions().mode() & 0o777
}

#[cfg(not(unix))]
fn mode(_: &Metadata) -> u32 {
    0
}

#[cfg(unix)]
fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(fs::Permissions::from_mode(mode))
}

#[cfg(not(unix))]
fn set_mode(_: &File, _: u32) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn is_unlinked(file: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    file.metadata().is_ok_and(|entry| entry.nlink() == 0)
}

#[cfg(not(unix))]
fn is_unlinked(_: &File) -> bool {
    false
}

/// True if the sticky bit of the folder forbids this process to replace the file. With this bit, only root, the
/// folder's owner and the file's owner may replace it. `trial` is a file that this process has just created.
#[cfg(unix)]
fn belongs_to_another(path: &Path, existing: &Metadata, trial: &NamedTempFile) -> Result<bool, Error> {
    use std::os::unix::fs::MetadataExt;
    let fail = |source| Error::Io { path: path.into(), doing: "looking at its folder", source };
    let folder = fs::metadata(folder(path)).map_err(fail)?;
    // The owner of the new trial file is the user of this process.
    let own = trial.as_file().metadata().map_err(fail)?.uid();
    let sticky = folder.mode() & 0o1000 != 0;
    Ok(sticky && own != 0 && own != folder.uid() && own != existing.uid())
}

#[cfg(not(unix))]
fn belongs_to_another(_: &Path, _: &Metadata, _: &NamedTempFile) -> Result<bool, Error> {
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_is_whole_or_not_there() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("out");
        let mut output = OutputFile::create(&path, 3, false).unwrap();
        output.write(b"abc").unwrap();
        assert!(!path.exists());
        drop(output);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
        OutputFile::write_whole(&path, b"abc", false).unwrap();
        assert!(matches!(OutputFile::write_whole(&path, b"new", false), Err(Error::Exists { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"abc");
        // Another process has created the output in the meantime.
        let late = root.path().join("late");
        let mut output = OutputFile::create(&late, 3, false).unwrap();
        output.write(b"abc").unwrap();
        fs::write(&late, "theirs").unwrap();
        assert!(matches!(output.finish(), Err(Error::Exists { .. })));
        assert_eq!(fs::read(&late).unwrap(), b"theirs");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 2);
    }

    #[test]
    fn names_that_no_file_can_have_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("folder");
        fs::create_dir(&folder).unwrap();
        let refused = |path: &Path| {
            for force in [false, true] {
                let error = OutputFile::check(path, force).unwrap_err();
                let refused = matches!(error, Error::NotWritable { .. } | Error::OutputName { .. });
                assert!(refused || path.as_os_str().len() > 255, "{error}");
                assert!(OutputFile::create(path, 0, force).is_err());
            }
        };
        refused(Path::new(""));
        refused(Path::new("."));
        refused(Path::new(".."));
        refused(&folder);
        for name in ["folder/", "folder/.", "folder/..", "new/", "missing/new", "missing/more/new"] {
            refused(&root.path().join(name));
        }
        refused(&root.path().join("x".repeat(256)));
        fs::write(root.path().join("file"), "").unwrap();
        refused(&root.path().join("file/"));
        refused(&root.path().join("file/new"));
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 2, "nothing is left of a check");
    }

    #[test]
    fn any_name_that_a_file_can_have_is_written() {
        let root = tempfile::tempdir().unwrap();
        let mut names: Vec<OsString> =
            ["x".repeat(255), "é".repeat(127), "a\nb".into(), "-".into(), "a.part".into()]
                .map(OsString::from)
                .to_vec();
        #[cfg(target_os = "linux")]
        {
            use std::os::unix::ffi::OsStringExt;
            names.push(OsString::from_vec(b"\xff\xfe.gguf".to_vec()));
        }
        for name in &names {
            let path = root.path().join(name);
            OutputFile::check(&path, false).unwrap();
            OutputFile::write_whole(&path, b"abc", false).unwrap();
            OutputFile::write_whole(&path, b"abcd", true).unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"abcd");
        }
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), names.len());
    }

    #[test]
    fn remains_of_killed_processes_are_cleared_and_living_ones_keep_theirs() {
        let root = tempfile::tempdir().unwrap();
        for name in ["out", &"long".repeat(60)] {
            let path = root.path().join(name);
            let living = OutputFile::create(&path, 3, false).unwrap();
            let mut remains = folder(&path).join(prefix(&path)).into_os_string();
            remains.push("Ab3dEf.part");
            fs::write(&remains, "half").unwrap();
            let others = [".out.abc.part", ".out.abcdefg.part", ".other.Ab3dEf.part", "out.part"];
            others.iter().for_each(|other| fs::write(root.path().join(other), "").unwrap());
            OutputFile::write_whole(&path, b"abc", false).unwrap();
            assert!(!Path::new(&remains).exists(), "{name}");
            assert!(living.temporary_path().exists(), "{name}");
            assert!(others.iter().all(|other| root.path().join(other).exists()), "{name}");
        }
    }

    #[test]
    fn one_file_under_two_names_is_found() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir(at("model")).unwrap();
        fs::write(at("model/model.safetensors"), "weights").unwrap();
        fs::write(at("model/out.gguf"), "an earlier output").unwrap();
        fs::write(at("model/out.gguf.card.json"), "its card").unwrap();
        let check = |outputs: &[PathBuf], inputs: &[PathBuf]| {
            let outputs: Vec<&Path> = outputs.iter().map(PathBuf::as_path).collect();
            let inputs: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
            OutputFile::check_all(&outputs, &inputs, true)
        };
        check(&[at("model/out.gguf"), at("model/out.gguf.card.json")], &[at("model"), at("absent")]).unwrap();
        let same = |outputs: &[PathBuf], inputs: &[PathBuf]| {
            let error = check(outputs, inputs).unwrap_err();
            assert!(matches!(error, Error::SameFile { .. }), "{error}");
        };
        same(&[at("new"), at("model/../new")], &[]);
        same(&[at("model/model.safetensors")], &[at("model")]);
        same(&[at("model/out.gguf")], &[at("model/./out.gguf")]);
        #[cfg(unix)]
        {
            fs::hard_link(at("model/model.safetensors"), at("hard.gguf")).unwrap();
            same(&[at("hard.gguf")], &[at("model")]);
            std::os::unix::fs::symlink("model", at("link")).unwrap();
            same(&[at("link/new"), at("model/new")], &[]);
            same(&[at("model/out.gguf")], &[at("link/out.gguf")]);
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_and_what_is_no_file_are_left_alone() {
        use std::os::unix::fs::symlink;
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("victim"), "precious").unwrap();
        symlink("victim", root.path().join("link")).unwrap();
        symlink("nowhere", root.path().join("dangling")).unwrap();
        let socket = std::os::unix::net::UnixListener::bind(root.path().join("socket")).unwrap();
        for name in ["link", "dangling", "socket", "/dev/full", "/dev/null"] {
            let path = root.path().join(name);
            for force in [false, true] {
                assert!(matches!(OutputFile::check(&path, force), Err(Error::NotWritable { .. })), "{name}");
                let written = OutputFile::write_whole(&path, b"abc", force);
                assert!(matches!(written, Err(Error::NotWritable { .. })), "{name}");
            }
        }
        drop(socket);
        assert_eq!(fs::read(root.path().join("victim")).unwrap(), b"precious");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 4);
        // A link takes the output's name while the content is written.
        let path = root.path().join("late");
        let output = OutputFile::create(&path, 0, true).unwrap();
        symlink("victim", &path).unwrap();
        assert!(matches!(output.finish(), Err(Error::NotWritable { .. })));
    }

    #[cfg(unix)]
    #[test]
    fn permissions_are_those_of_the_replaced_file_or_of_any_new_one() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let (path, plain) = (root.path().join("out"), root.path().join("plain"));
        OutputFile::write_whole(&path, b"abc", false).unwrap();
        fs::write(&plain, "").unwrap();
        assert_eq!(mode(&path), mode(&plain));
        for replaced in [0o600, 0o640, 0o444, 0o755] {
            fs::set_permissions(&path, fs::Permissions::from_mode(replaced)).unwrap();
            let output = OutputFile::create(&path, 0, true).unwrap();
            assert_eq!(mode(output.temporary_path()), 0o600, "private while it is written");
            output.finish().unwrap();
            assert_eq!(mode(&path), replaced);
        }
    }
}
