//! A destination of results: standard output, or a file that appears whole or not at all.
//!
//! A file is written beside the one that it replaces, and renamed at the end. So a run that fails, and a
//! disk that is full, leave the earlier result as it was. What cannot be replaced (a device, a pipe, a file
//! in a folder that takes no new file) is written in place.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use lbd::os::terminal::print;

/// An open destination.
pub struct Sink<'a> {
    path: &'a Path,
    to: Destination,
}

enum Destination {
    Stdout,
    InPlace { real: PathBuf, file: File },
    Beside { real: PathBuf, unfinished: Unfinished },
}

/// A file that is removed unless it is renamed.
struct Unfinished {
    path: PathBuf,
    file: File,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl<'a> Sink<'a> {
    /// Opens a destination without a change to what it holds; `-` is standard output. The error names the
    /// path.
    pub fn open(path: &'a Path) -> Result<Self> {
        let to = Destination::open(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Sink { path, to })
    }

    /// Whether this is standard output.
    pub fn is_stdout(&self) -> bool {
        matches!(self.to, Destination::Stdout)
    }

    /// Refuses two destinations that are one file.
    pub fn check_distinct(sinks: &[&Sink<'_>]) -> Result<()> {
        ensure!(
            sinks.iter().filter(|sink| sink.is_stdout()).count() <= 1,
            "only one of --json, --csv, --hdr, --hgrm and --report can be `-`"
        );
        for (index, sink) in sinks.iter().enumerate() {
            if let Some(first) = sinks[..index].iter().find(|first| first.to.is_same(&sink.to)) {
                bail!("{} and {} are the same file", first.path.display(), sink.path.display());
            }
        }
        Ok(())
    }

    /// Writes the content, once and as a whole. A reader that has gone is no error. The error names the path.
    pub fn write(self, bytes: &[u8]) -> Result<()> {
        let path = self.path;
        self.to.write(bytes).with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Destination {
    fn open(path: &Path) -> Result<Destination> {
        if [Path::new("-"), Path::new("/dev/stdout")].contains(&path) {
            return Ok(Destination::Stdout);
        }
        let existing = match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => bail!("it is a directory"),
            Ok(metadata) => Some((OpenOptions::new().write(true).open(path)?, metadata)),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        // A pipe of a shell, such as /dev/fd/63, has no path of its own.
        let real = resolved(path).unwrap_or_else(|_| path.to_owned());
        match existing {
            Some((file, metadata)) if !metadata.is_file() => Ok(Destination::InPlace { real, file }),
            None => Ok(Destination::Beside { unfinished: Unfinished::beside(&real, None)?, real }),
            Some((file, metadata)) => Ok(match Unfinished::beside(&real, Some(&metadata)) {
                Ok(unfinished) => Destination::Beside { unfinished, real },
                Err(_) => Destination::InPlace { real, file },
            }),
        }
    }

    fn write(self, bytes: &[u8]) -> Result<()> {
        match self {
            Destination::Stdout => drop(print(format_args!("{}", String::from_utf8_lossy(bytes)))?),
            Destination::InPlace { mut file, .. } => {
                if file.metadata()?.is_file() {
                    file.set_len(0)?;
                }
                match file.write_all(bytes) {
                    Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(error.into()),
                    _ => {}
                }
            }
            Destination::Beside { mut unfinished, real } => {
                unfinished.file.write_all(bytes)?;
                unfinished.file.sync_all()?;
                fs::rename(&unfinished.path, real)?;
            }
        }
        Ok(())
    }

    /// Whether both are one file or one pipe. A device such as /dev/null can take several.
    fn is_same(&self, other: &Destination) -> bool {
        match (self, other) {
            (Destination::InPlace { file: a, .. }, Destination::InPlace { file: b, .. }) => {
                let number = |file: &File| {
                    let metadata = file.metadata().ok()?;
                    (!metadata.file_type().is_char_device()).then(|| (metadata.dev(), metadata.ino()))
                };
                number(a).is_some_and(|a| number(b) == Some(a))
            }
            (Destination::Beside { real: a, .. }, Destination::Beside { real: b, .. }) => a == b,
            (Destination::InPlace { real: a, .. }, Destination::Beside { real: b, .. })
            | (Destination::Beside { real: a, .. }, Destination::InPlace { real: b, .. }) => a == b,
            _ => false,
        }
    }
}

impl Unfinished {
    /// A new file beside `real`, with the rights of the one that it will replace.
    fn beside(real: &Path, existing: Option<&Metadata>) -> io::Result<Unfinished> {
        let name = real.file_name().unwrap_or(OsStr::new("loadgen")).to_string_lossy();
        let mut number = 0;
        loop {
            let path = real.with_file_name(format!(".{name}.{}-{number}", std::process::id()));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => {
                    let unfinished = Unfinished { path, file };
                    if let Some(metadata) = existing {
                        // Only root can give a file away; others own it already, or may not.
                        let _ = fchown(&unfinished.file, Some(metadata.uid()), Some(metadata.gid()));
                        unfinished.file.set_permissions(metadata.permissions())?;
                    }
                    return Ok(unfinished);
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(error),
            }
        }
    }
}

/// The path without links; its last part need not exist.
fn resolved(path: &Path) -> io::Result<PathBuf> {
    let Err(error) = path.canonicalize().map(|path| path.into_os_string()) else {
        return path.canonicalize();
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match path.file_name() {
        Some(name) if error.kind() == ErrorKind::NotFound => Ok(folder.canonicalize()?.join(name)),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_with_its_rights_or_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.json");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let sink = Sink::open(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        drop(sink);
        assert_eq!(fs::read_to_string(&path).unwrap(), "old", "nothing was written");
        Sink::open(&path).unwrap().write(b"new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn one_file_by_two_names_is_refused_and_a_device_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("out"), dir.path().join("link"));
        std::os::unix::fs::symlink(&path, &link).unwrap();
        fs::write(&path, "old").unwrap();
        let open = |path| Sink::open(path).unwrap();
        let (a, b) = (open(&path), open(&link));
        let why = Sink::check_distinct(&[&a, &b]).unwrap_err().to_string();
        assert!(why.ends_with("are the same file"), "{why}");
        let null = Path::new("/dev/null");
        Sink::check_distinct(&[&open(null), &open(null), &a]).unwrap();
        let (one, two) = (open(Path::new("-")), open(Path::new("-")));
        assert!(Sink::check_distinct(&[&one, &a]).is_ok() && Sink::check_distinct(&[&one, &two]).is_err());
    }
}
