//! Reads small files of a model folder or a work folder as a whole.
//!
//! Invariant: a file counts as absent only if its folder has no entry of this name. Every other obstacle (a dangling
//! link, a folder without access, a pipe, a file above the size limit) is an error that names the path. A file is
//! opened without blocking. Its type is checked on the opened file, so nobody can replace the file between this check
//! and the reading.

use crate::Error;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Which symbolic links are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// Every link, for a file that the user named.
    Follow,
    /// A link whose target is inside the same folder, or in the `blobs` folder of a Hugging Face cache.
    InsideModel,
    /// No link.
    Refuse,
}

/// Reads a regular file of at most `max_bytes` bytes; returns `None` if there is no entry of this name.
///
/// # Errors
/// [`Error::Io`] for errors of the file system and for a dangling link; [`Error::NotRecognised`] for a folder, pipe or
/// device; [`Error::Link`] for a link that `links` excludes; [`Error::Limit`] for a file of more than `max_bytes`.
pub fn read_file(path: &Path, links: Links, max_bytes: usize) -> Result<Option<Vec<u8>>, Error> {
    let fail = |source| Error::Io { path: path.into(), doing: "reading", source };
    let entry = match fs::symlink_metadata(path) {
        Ok(entry) => entry,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(fail(e)),
    };
    if entry.is_symlink() {
        check_link(path, links)?;
    }
    let file = open_regular(path, links)?;
    let too_large = |found: u64| Error::Limit {
        path: path.into(),
        what: "bytes of a file beside a model",
        found,
        max: max_bytes as u64,
    };
    let found = file.metadata().map_err(fail)?.len();
    if found > max_bytes as u64 {
        return Err(too_large(found));
    }
    let mut bytes = Vec::with_capacity(found as usize);
    // Reads up to one byte more than allowed, to detect a file that has grown since its size was read.
    file.take(max_bytes as u64 + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() > max_bytes { Err(too_large(bytes.len() as u64)) } else { Ok(Some(bytes)) }
}

/// Opens a regular file for reading. The opening of a pipe does not block. With [`Links::Refuse`] a link at `path` is
/// not followed.
///
/// # Errors
/// [`Error::Io`] for errors of the file system and for a missing file; [`Error::NotRecognised`] for a folder, pipe or
/// device.
pub fn open_regular(path: &Path, links: Links) -> Result<File, Error> {
    let fail = |source| Error::Io { path: path.into(), doing: "opening", source };
    let mut options = File::options();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        let no_link = if links == Links::Refuse { libc::O_NOFOLLOW } else { 0 };
        options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | no_link);
    }
    let file = options.open(path).map_err(fail)?;
    if !file.metadata().map_err(fail)?.is_file() {
        return Err(Error::NotRecognised {
            path: path.into(),
            found: "not a regular file",
            hint: "folders, pipes and devices are not read here",
        });
    }
    Ok(file)
}

/// Opens a regular file for reading and writing; creates the file if it does not exist. A link is not followed, and the
/// opening of a pipe does not block. A file with a second name (a hard link) is refused, because a change would appear
/// under both names.
///
/// # Errors
/// The errors of [`open_regular`], except that a missing file is created; [`Error::NotRecognised`] also for a link and
/// for a file with a second name.
pub fn open_for_update(path: &Path) -> Result<File, Error> {
    let fail = |source| Error::Io { path: path.into(), doing: "opening", source };
    let refuse = |found, hint| Err(Error::NotRecognised { path: path.into(), found, hint });
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_NOFOLLOW);
    }
    match fs::symlink_metadata(path) {
        // The type is also checked before the opening, because the opening of a device may have an effect.
        Ok(entry) if !entry.is_file() => {
            return refuse(
                "not a regular file",
                "links, folders, pipes and devices are not written to; remove it",
            );
        }
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(fail(e)),
    }
    let file = options.open(path).map_err(fail)?;
    let entry = file.metadata().map_err(fail)?;
    if !entry.is_file() {
        return refuse(
            "not a regular file",
            "links, folders, pipes and devices are not written to; remove it",
        );
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        if entry.nlink() > 1 {
            return refuse("has a second name (a hard link)", "it would change there too; remove it");
        }
    }
    Ok(file)
}

/// Checks that `links` allows the link at `path`.
fn check_link(path: &Path, links: Links) -> Result<(), Error> {
    if links == Links::Follow {
        return Ok(());
    }
    let fail = |source| Error::Io { path: path.into(), doing: "following the link", source };
    let target = fs::canonicalize(path).map_err(fail)?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = fs::canonicalize(folder).map_err(fail)?;
    let inside = target.starts_with(&folder) || blobs(&folder).is_some_and(|b| target.starts_with(b));
    if links == Links::InsideModel && inside {
        return Ok(());
    }
    Err(Error::Link { path: path.into(), target })
}

/// The `blobs` folder of a Hugging Face cache, if `folder` is a folder `models--*/snapshots/REVISION` (also
/// `datasets--*` or `spaces--*`) or a folder below it; else `None`.
fn blobs(folder: &Path) -> Option<PathBuf> {
    let snapshots = folder.ancestors().find(|a| a.file_name().is_some_and(|n| n == "snapshots"))?;
    let repository = snapshots.parent()?;
    let cached = repository.file_name()?.to_str()?.split_once("--")?.0;
    ["models", "datasets", "spaces"].contains(&cached).then(|| repository.join("blobs"))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_stay_inside_the_model_or_its_cache() {
        let root = tempfile::tempdir().unwrap();
        let repository = root.path().join("models--a--b");
        let snapshot = repository.join("snapshots/0123");
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir(repository.join("blobs")).unwrap();
        fs::write(repository.join("blobs/beef"), "blob").unwrap();
        fs::write(root.path().join("secret"), "secret").unwrap();
        fs::write(snapshot.join("plain"), "plain").unwrap();
        symlink("../../blobs/beef", snapshot.join("cached")).unwrap();
        symlink("../../../secret", snapshot.join("outside")).unwrap();
        symlink("plain", snapshot.join("beside")).unwrap();
        symlink("nowhere", snapshot.join("dangling")).unwrap();
        let read = |name: &str, links| read_file(&snapshot.join(name), links, 100);
        assert_eq!(read("cached", Links::InsideModel).unwrap().unwrap(), b"blob");
        assert_eq!(read("beside", Links::InsideModel).unwrap().unwrap(), b"plain");
        assert_eq!(read("outside", Links::Follow).unwrap().unwrap(), b"secret");
        assert!(matches!(read("outside", Links::InsideModel), Err(Error::Link { .. })));
        assert!(matches!(read("beside", Links::Refuse), Err(Error::Link { .. })));
        assert!(matches!(read("dangling", Links::InsideModel), Err(Error::Io { .. })));
        assert!(read("absent", Links::Refuse).unwrap().is_none());
    }

    #[test]
    fn what_is_no_small_regular_file_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("large");
        fs::write(&path, [0; 101]).unwrap();
        assert!(matches!(read_file(&path, Links::Follow, 100), Err(Error::Limit { found: 101, .. })));
        assert!(matches!(
            read_file(root.path(), Links::Follow, 100),
            Err(Error::NotRecognised { .. } | Error::Io { .. })
        ));
        let device = Path::new("/dev/zero");
        assert!(matches!(read_file(device, Links::Follow, 100), Err(Error::NotRecognised { .. })));
    }
}
