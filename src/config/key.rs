//! Secrets: the key that all components share, and files that only their owner can read. Never printed.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::os::regular_file;

/// Most bytes that are read of a file with a secret: far more than one has.
const FILE_SIZE_MAX: u64 = 1_024;

/// 128 bits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key([u8; 16]);

/// The text of a short file with mode 0600 (or stricter) that holds `what`.
pub fn read_private(path: &Path, what: &str) -> Result<String, String> {
    let shown = path.display();
    let unreadable = |e| format!("cannot read {shown}: {e}");
    let file = regular_file::open(path)
        .map_err(|e| format!("cannot read {shown}: {e}; name a file that holds {what}"))?;
    // The mode of the open file, whatever has its name by now.
    let meta = file.metadata().map_err(unreadable)?;
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!("{shown} can be read by others (mode {mode:03o}); run chmod 600 {shown}"));
    }
    let mut bytes = vec![];
    file.take(FILE_SIZE_MAX).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl Key {
    /// Reads 32 hex digits from a file with mode 0600 (or stricter).
    pub fn read(path: &Path) -> Result<Key, String> {
        let shown = path.display();
        let text = read_private(path, "32 hex digits")?;
        Key::parse(text.trim()).ok_or_else(|| {
            format!("{shown} does not hold 32 hex digits; make one with `openssl rand -hex 16 > {shown}`")
        })
    }

    fn parse(text: &str) -> Option<Key> {
        let mut key = [0; 16];
        hex::decode_to_slice(text, &mut key).ok()?;
        Some(Key(key))
    }

    /// The key's bytes.
    pub fn bytes(&self) -> [u8; 16] {
        self.0
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str, mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn a_private_file_with_32_digits_is_a_key() {
        let key = Key::read(file("000102030405060708090a0b0c0d0e0F\n", 0o600).path()).unwrap();
        assert_eq!(key.bytes(), std::array::from_fn(|i| i as u8));
        assert_eq!(format!("{key:?}"), "Key(..)");
    }

    #[test]
    fn what_is_not_a_file_is_refused_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Key::read(dir.path()).unwrap_err().contains("not a regular file"));
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert!(Key::read(&pipe).unwrap_err().contains("not a regular file"));
    }

    #[test]
    fn a_refusal_never_repeats_what_the_file_holds() {
        let almost = "000102030405060708090a0b0c0d0e0fff";
        for mode in [0o600, 0o644] {
            assert!(!Key::read(file(almost, mode).path()).unwrap_err().contains("0a0b"));
        }
    }

    #[test]
    fn anything_else_is_refused_with_the_remedy() {
        let digits = "000102030405060708090a0b0c0d0e0f";
        assert!(Key::read(file(digits, 0o640).path()).unwrap_err().contains("chmod 600"));
        for text in ["", "0001", "zz0102030405060708090a0b0c0d0e0f", "+00102030405060708090a0b0c0d0e0ff"] {
            assert!(Key::read(file(text, 0o600).path()).unwrap_err().contains("32 hex digits"), "{text}");
        }
        assert!(Key::read(Path::new("/nowhere")).unwrap_err().contains("cannot read /nowhere"));
    }
}
