//! Opening files that an operator names. Only regular files are accepted, and opening never waits: a FIFO
//! would block its reader or writer until the other end is opened (fifo(7)).

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Opens a regular file for reading.
pub fn open(path: &Path) -> Result<File> {
    open_with(OpenOptions::new().read(true), path)
}

/// Opens a regular file for appending, and creates it if it does not exist.
pub fn append(path: &Path) -> Result<File> {
    open_with(OpenOptions::new().create(true).append(true), path)
}

fn open_with(options: &mut OpenOptions, path: &Path) -> Result<File> {
    // Before the file is opened, since opening some devices has effects.
    match std::fs::metadata(path) {
        Ok(found) => regular(found.file_type())?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // Another file may have taken the name since then.
    let file = options.custom_flags(libc::O_NONBLOCK).open(path)?;
    regular(file.metadata()?.file_type())?;
    Ok(file)
}

fn regular(kind: std::fs::FileType) -> Result<()> {
    let found = match () {
        () if kind.is_file() => return Ok(()),
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_socket() => "a socket",
        () => "a device",
    };
    Err(Error::new(ErrorKind::InvalidInput, format!("it is {found}, not a regular file")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    #[test]
    fn only_regular_files_are_opened_and_none_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        for open in [open, append] {
            let refused = |path: &Path| open(path).unwrap_err().to_string();
            assert_eq!(refused(&fifo), "it is a FIFO, not a regular file");
            assert_eq!(refused(dir.path()), "it is a directory, not a regular file");
            assert_eq!(refused(Path::new("/dev/zero")), "it is a device, not a regular file");
        }
        let file = dir.path().join("file");
        assert_eq!(open(&file).unwrap_err().kind(), ErrorKind::NotFound);
        append(&file).unwrap();
        open(&file).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        open(&link).unwrap();
    }
}
