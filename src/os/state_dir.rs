//! The directory for files that a process shares with processes of the same user: tokens, sockets, lists
//! of processes. Other users may neither read nor change them.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Creates the directory (mode 0700) if it does not exist. Refuses a directory that belongs to another
/// user, or that others may enter.
pub fn prepare(dir: &Path) -> Result<(), String> {
    let shown = dir.display();
    let unusable =
        |e: std::io::Error| format!("cannot use the directory {shown}: {e}; set state_dir to another");
    if let Some(parent) = dir.parent() {
        std::fs::create_dir_all(parent).map_err(unusable)?;
    }
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(unusable(e)),
        _ => {}
    }
    let meta = std::fs::metadata(dir).map_err(unusable)?;
    let user = rustix::process::geteuid().as_raw();
    let owner = owner(dir).map_err(unusable)?;
    let mode = meta.mode() & 0o777;
    if !meta.is_dir() {
        Err(format!("{shown} is not a directory; set state_dir to a directory"))
    } else if owner != user {
        Err(format!("the directory {shown} belongs to user {owner}, not to {user}; set state_dir to another"))
    } else if mode & 0o077 != 0 {
        Err(format!(
            "other users may enter the directory {shown} (mode {mode:03o}); run chmod 700 {shown}, or set \
             state_dir to another"
        ))
    } else {
        Ok(())
    }
}

/// The user to whom a directory belongs, or a link to it: the owner of a link could redirect it.
fn owner(dir: &Path) -> std::io::Result<u32> {
    let link = std::fs::symlink_metadata(dir)?.uid();
    if link != rustix::process::geteuid().as_raw() { Ok(link) } else { Ok(std::fs::metadata(dir)?.uid()) }
}

/// Whether another user has made something of this name.
pub fn is_of_another_user(dir: &Path) -> bool {
    owner(dir).is_ok_and(|owner| owner != rustix::process::geteuid().as_raw())
}

/// Writes a file (mode 0600) into the directory in place of an older one. A reader sees either the old
/// or the new content.
pub fn write(dir: &Path, name: &str, text: &str) -> Result<PathBuf, String> {
    prepare(dir)?;
    let path = dir.join(name);
    let unfinished = dir.join(format!(".{name}.{}", std::process::id()));
    let put = || {
        match std::fs::remove_file(&unfinished) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        file.write_all(text.as_bytes())?;
        std::fs::rename(&unfinished, &path)
    };
    put().map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_folder_is_made_for_this_user_alone() {
        let above = tempfile::tempdir().unwrap();
        let dir = above.path().join("a/b");
        prepare(&dir).unwrap();
        prepare(&dir).unwrap();
        assert_eq!(std::fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
        std::fs::set_permissions(&dir, Permissions::from_mode(0o750)).unwrap();
        let error = prepare(&dir).unwrap_err();
        assert!(error.contains("mode 750") && error.contains("run chmod 700"), "{error}");
        let file = above.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(prepare(&file).unwrap_err().contains("is not a directory"));
        assert!(prepare(&file.join("below")).unwrap_err().contains("set state_dir to another"));
    }

    #[test]
    fn somebody_elses_folder_is_refused() {
        let theirs = Path::new("/proc/1");
        if rustix::process::geteuid().is_root() {
            let dir = tempfile::tempdir().unwrap();
            std::os::unix::fs::chown(dir.path(), Some(12_345), None).unwrap();
            assert!(prepare(dir.path()).unwrap_err().contains("belongs to user 12345, not to 0"));
            assert!(is_of_another_user(dir.path()));
            assert!(!is_of_another_user(&dir.path().join("nothing")));
            let own = tempfile::tempdir().unwrap();
            std::fs::set_permissions(own.path(), Permissions::from_mode(0o700)).unwrap();
            let link = own.path().with_extension("link");
            std::os::unix::fs::symlink(own.path(), &link).unwrap();
            assert!(prepare(&link).is_ok(), "a link of the same user");
            std::os::unix::fs::lchown(&link, Some(12_345), None).unwrap();
            let refused = prepare(&link);
            std::fs::remove_file(&link).unwrap();
            assert!(refused.unwrap_err().contains("belongs to user 12345"));
        } else {
            assert!(prepare(theirs).unwrap_err().contains("belongs to user 0"));
        }
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_and_nobody_else_can_read_it() {
        let above = tempfile::tempdir().unwrap();
        let dir = above.path().join("state");
        write(&dir, "token", "a longer one").unwrap();
        let path = write(&dir, "token", "short").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "short");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1, "no temporary file stays");
        std::fs::create_dir(dir.join("folder")).unwrap();
        assert!(write(&dir, "folder", "x").unwrap_err().contains("cannot write"));
    }
}
