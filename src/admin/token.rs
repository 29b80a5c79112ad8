//! The token of the admin interface: from a file of the operator, or a file that the balancer writes to
//! `state_dir` for other programs of its user.

use std::path::Path;

use crate::config::{Admin, Token};
use crate::os::state_dir;

/// The name of the file that a balancer writes, by the port of its admin interface.
fn file_name(port: u16) -> String {
    format!("admin-{port}.token")
}

/// The token for a balancer whose admin interface has this port: the operator's, or the one in `state_dir`.
/// The file stays, so a successor or a restarted balancer has the token that commands and dashboards know.
/// The error names the remedy.
pub fn token_for(admin: &Admin, state_dir: &Path, port: u16) -> Result<Token, String> {
    if let Some(token) = &admin.token {
        return Ok(token.clone());
    }
    state_dir::prepare(state_dir)?; // a directory of another user is not trusted
    if let Ok(token) = Token::read(&state_dir.join(file_name(port))) {
        return Ok(token);
    }
    let text = format!("{:032x}", rand::random::<u128>());
    state_dir::write(state_dir, &file_name(port), &format!("{text}\n"))?;
    Ok(Token::new(&text).expect("32 hex digits are a token"))
}

/// Removes the file with the token that a balancer has made: at its end, when no process uses the token any
/// more. An operator's file stays.
pub fn forget_token(admin: &Admin, state_dir: &Path, port: u16) {
    if admin.token.is_none() {
        let _ = std::fs::remove_file(state_dir.join(file_name(port))); // another may have removed it
    }
}

/// The token of the balancer at this port of this machine: the operator's, or the one in `state_dir`. The
/// error names the remedy.
pub fn find_token(admin: &Admin, state_dir: &Path, port: u16) -> Result<Token, String> {
    match &admin.token {
        Some(token) => Ok(token.clone()),
        None => Token::read(&state_dir.join(file_name(port))).map_err(|problem| {
            format!(
                "{problem}; start the balancer with this user and state_dir and admin port {port}, or give \
                 --token-file"
            )
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn admin(token: Option<&str>) -> Admin {
        Admin { listen: None, is_written: false, token: token.and_then(Token::new) }
    }

    #[test]
    fn a_token_is_made_once_and_left_for_others() {
        let above = tempfile::tempdir().unwrap();
        let dir = above.path().join("state");
        let token = token_for(&admin(None), &dir, 55080).unwrap();
        assert_eq!(token.as_str().len(), 32);
        assert_eq!(find_token(&admin(None), &dir, 55080).as_ref(), Ok(&token));
        assert_eq!(
            token_for(&admin(None), &dir, 55080).as_ref(),
            Ok(&token),
            "the next process takes it too"
        );
        let other = find_token(&admin(None), &dir, 55081).unwrap_err();
        assert!(other.contains("admin-55081.token") && other.contains("--token-file"), "{other}");
        assert_ne!(token_for(&admin(None), &dir, 55081).unwrap(), token);

        forget_token(&admin(None), &dir, 55081);
        assert!(find_token(&admin(None), &dir, 55081).is_err());
        let file = dir.join("admin-55080.token");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_ne!(token_for(&admin(None), &dir, 55080).unwrap(), token, "others may have read it");
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(token_for(&admin(None), &dir, 55080).unwrap_err().contains("chmod 700"));
    }

    #[test]
    fn the_operators_token_is_used_and_stays_where_it_is() {
        let dir = Path::new("/nonexistent/state");
        let admin = admin(Some("0123456789abcdef"));
        let token = token_for(&admin, dir, 1).unwrap();
        assert_eq!((find_token(&admin, dir, 1).as_ref(), token.as_str()), (Ok(&token), "0123456789abcdef"));
    }
}
