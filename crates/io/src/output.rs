//! Every file that the program writes: refused before the work if it cannot be written, and whole or not there at all.
//!
//! Content goes into a temporary file beside the output, under an unpredictable name; then it is synced to the disk
//! and renamed. Invariant: only a regular file is ever replaced, and only with `force`; no link is followed at the
//! output's own name. The temporary file is locked as long as it is written, so a later run can distinguish the remains of a
//! killed process from the file of a running one, and removes them. Left out: protection from somebody who may rename
//! folders on the way to the output.

use crate::Error;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Component, Path, PathBuf};
use tempfile::NamedTempFile;

/// Random characters in the name of a temporary file.
const RANDOM: usize = 6;
/// The end of that name.
const SUFFIX: &str = ".part";
/// Bytes of an output's name that stand in it; a hash stands for longer ones, for names have at most 255 bytes.
const MAX_STEM_BYTES: usize = 120;

/// A file in the making. Dropped unfinished, it leaves nothing behind.
#[derive(Debug)]
pub struct OutputFile {
    path: PathBuf,
    file: NamedTempFile,
    /// Bytes that the finished file takes.
    bytes: u64,
    force: bool,
    /// Permissions of the file that it replaces.
    mode: Option<u32>,
}

impl OutputFile {
    /// Refuses an output that cannot be written, before the work that it is for.
    ///
    /// # Errors
    /// [`Error::Exists`] without `force`; [`Error::NotWritable`] for a link and for what is no regular file;
    /// [`Error::OutputName`] for a name that means a folder and for a folder that is not there; [`Error::Io`] for one in
    /// which nothing can be written.
    pub fn check(path: &Path, force: bool) -> Result<(), Error> {
        let replaced = replaced(path, force)?;
        // No single query covers access rights, read-only file systems and quotas; a trial file does.
        let trial = temporary(path, Some(0o600)).map_err(|source| failed(path, CREATING, source, 0))?;
        match replaced {
            Some(existing) if belongs_to_another(path, &existing, &trial)? => Err(Error::NotWritable {
                path: path.into(),
                reason: "it belongs to somebody else, and its folder lets only owners replace a file; choose another name",
            }),
            _ => Ok(()),
        }
    }

    /// Refuses outputs that are one file under two names, or that would replace one of `inputs` (a model's folder stands
    /// for the files in it that make the model), and then what [`OutputFile::check`] refuses.
    ///
    /// # Errors
    /// [`Error::SameFile`]; as [`OutputFile::check`].
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

    /// Refuses two paths that lead to one place.
    ///
    /// # Errors
    /// [`Error::SameFile`].
    pub fn check_apart(paths: &[&Path]) -> Result<(), Error> {
        for (i, path) in paths.iter().enumerate() {
            if let Some(other) = paths[..i].iter().find(|other| place(other) == place(path)) {
                return Err(Error::SameFile { path: path.into(), other: other.into() });
            }
        }
        Ok(())
    }

    /// Makes the temporary file of an output of so many bytes, and clears those that killed processes have left.
    ///
    /// # Errors
    /// As [`OutputFile::check`].
    pub fn create(path: &Path, bytes: u64, force: bool) -> Result<Self, Error> {
        let mode = replaced(path, force)?.map(|existing| mode(&existing));
        clear_remains(path);
        // The replacement of a private file stays private while it is written.
        let file = temporary(path, mode.map(|_| 0o600));
        let file = file.map_err(|source| failed(path, CREATING, source, bytes))?;
        Ok(Self { path: path.into(), file, bytes, force, mode })
    }

    /// Writes a whole file.
    ///
    /// # Errors
    /// As [`OutputFile::check`]; [`Error::DiskFull`].
    pub fn write_whole(path: &Path, content: &[u8], force: bool) -> Result<(), Error> {
        let mut output = Self::create(path, content.len() as u64, force)?;
        output.write(content)?;
        output.finish()
    }

    /// Writes behind what was written last.
    ///
    /// # Errors
    /// [`Error::DiskFull`], or whatever else the file system says.
    pub fn write(&mut self, content: &[u8]) -> Result<(), Error> {
        self.file.write_all(content).map_err(|source| self.failed("writing", source))
    }

    /// Writes at `offset`.
    ///
    /// # Errors
    /// As [`OutputFile::write`].
    pub fn write_at(&mut self, offset: u64, content: &[u8]) -> Result<(), Error> {
        self.file.seek(SeekFrom::Start(offset)).map_err(|source| self.failed("writing", source))?;
        self.write(content)
    }

    /// The temporary file.
    pub fn file(&self) -> &File {
        self.file.as_file()
    }

    /// Where the content lies until [`OutputFile::finish`].
    pub fn temporary_path(&self) -> &Path {
        self.file.path()
    }

    /// Where it will lie.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An error of this file.
    pub fn failed(&self, doing: &'static str, source: io::Error) -> Error {
        failed(&self.path, doing, source, self.bytes)
    }

    /// Forces the file to the disk and renames it into place, with the permissions of the file that it replaces, else
    /// those that new files get.
    ///
    /// # Errors
    /// An output that has come into being meanwhile, without `force`; what the file system says.
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
                // The file is complete; without this a power cut may take its new name back, no more.
                let _ = File::open(folder(&path)).and_then(|folder| folder.sync_all());
                Ok(())
            }
            Err(e) if e.error.kind() == io::ErrorKind::AlreadyExists => Err(Error::Exists { path }),
            Err(e) => Err(Error::Io { path, doing: "renaming the temporary file to it", source: e.error }),
        }
    }
}

const CREATING: &str = "creating a temporary file beside it";

fn failed(path: &Path, doing: &'static str, source: io::Error, needed: u64) -> Error {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Error::DiskFull { path: path.into(), doing, needed }
        }
        // The temporary file's name says nothing to whoever reads the error.
        kind if doing == CREATING => Error::Io { path: path.into(), doing, source: kind.into() },
        _ => Error::Io { path: path.into(), doing, source },
    }
}

/// The folder of an output.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The regular file that an output would replace; an error for what must not be replaced.
fn replaced(path: &Path, force: bool) -> Result<Option<Metadata>, Error> {
    let refuse = |reason| Err(Error::NotWritable { path: path.into(), reason });
    let refuse_name = |reason| Err(Error::OutputName { path: path.into(), reason });
    let fail = |source| Error::Io { path: path.into(), doing: "looking at it before writing", source };
    let bytes = path.as_os_str().as_encoded_bytes();
    let start = bytes.iter().rposition(|&b| std::path::is_separator(char::from(b))).map_or(0, |at| at + 1);
    if bytes.is_empty() {
        return refuse_name("its name is empty");
    }
    // `Path` passes over a slash or a dot at the end, and the file system does not.
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

/// The part that an output's name has in the names of its temporary files.
fn stem(path: &Path) -> OsString {
    let name = path.file_name().unwrap_or_default();
    if name.len() <= MAX_STEM_BYTES {
        return name.to_owned();
    }
    blake3::hash(name.as_encoded_bytes()).to_hex().as_str().into()
}

fn prefix(path: &Path) -> OsString {
    [OsStr::new("."), &stem(path), OsStr::new(".")].into_iter().collect()
}

/// A locked temporary file beside `path`; without a mode it gets the permissions of any new file.
fn temporary(path: &Path, mode: Option<u32>) -> io::Result<NamedTempFile> {
    let prefix = prefix(path);
    loop {
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(SUFFIX).rand_bytes(RANDOM);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // The system takes from it what the umask forbids.
            builder.permissions(fs::Permissions::from_mode(mode.unwrap_or(0o666)));
        }
        let file = builder.tempfile_in(folder(path))?;
        let locked = file.as_file().try_lock();
        // Between making and locking another process may have taken it for remains.
        let cleared = matches!(locked, Err(fs::TryLockError::WouldBlock)) || is_unlinked(file.as_file());
        if !cleared {
            return Ok(file);
        }
    }
}

/// Removes temporary files of the same output that no running process holds. Errors are ignored: the output does not
/// depend on it.
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

fn is_temporary(name: &OsStr, prefix: &OsStr) -> bool {
    let rest = name.as_encoded_bytes().strip_prefix(prefix.as_encoded_bytes());
    let random = rest.and_then(|rest| rest.strip_suffix(SUFFIX.as_bytes()));
    random.is_some_and(|random| random.len() == RANDOM && random.iter().all(u8::is_ascii_alphanumeric))
}

/// The output whose temporary file has this name, if it is short enough to stand in it.
pub fn temporary_of(name: &str) -> Option<&str> {
    let stem = name.strip_prefix('.')?.strip_suffix(SUFFIX)?;
    let (stem, random) = stem.rsplit_once('.')?;
    (random.len() == RANDOM && random.bytes().all(|b| b.is_ascii_alphanumeric())).then_some(stem)
}

/// The files that an input consists of: itself, or those of a model's folder.
fn files_of(input: &Path) -> Vec<PathBuf> {
    let safetensors = |path: &Path| path.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors"));
    let of_a_model = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        let kinds = [".safetensors", ".json", ".jinja", ".model", "merges.txt", "vocab.txt"];
        // Cards are this program's own outputs.
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

/// The identity of a path: equal for two paths to one file.
#[derive(PartialEq)]
enum Place {
    /// Device and file number.
    File(u64, u64),
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

/// Whether a sticky folder keeps this process from replacing a file.
#[cfg(unix)]
fn belongs_to_another(path: &Path, existing: &Metadata, trial: &NamedTempFile) -> Result<bool, Error> {
    use std::os::unix::fs::MetadataExt;
    let fail = |source| Error::Io { path: path.into(), doing: "looking at its folder", source };
    let folder = fs::metadata(folder(path)).map_err(fail)?;
    // A file that this process has just made tells who it is.
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
        // Another process was faster.
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
        // A link that takes the place of the file while the content is written.
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
