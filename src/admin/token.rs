//! Where the token of the admin interface comes from: a file of the operator's, or one that the balancer makes and leaves
//! for others of its user in `state_dir`.

use std::path::{Path, PathBuf};

use crate::config::{Admin, Token};
use crate::state_dir;

/// The name of the file that a balancer leaves, by the port of its admin interface.
fn file_name(port: u16) -> String {
    format!("admin-{port}.token")
}

/// The token of a running balancer. Its file, if it made one, goes with this value, unless another process has put its own
/// in that place.
#[derive(Debug)]
pub struct KeptToken {
    token: Token,
    file: Option<PathBuf>,
}

impl KeptToken {
    /// The token.
    pub fn token(&self) -> &Token {
        &self.token
    }
}

impl Drop for KeptToken {
    fn drop(&mut self) {
        if let Some(path) = &self.file
            && Token::read(path).is_ok_and(|now| now == self.token)
        {
            let _ = std::fs::remove_file(path); // at worst a token stays that opens nothing
        }
    }
}

/// The token for a balancer whose admin interface has this port: the operator's, or a new one that is left in `state_dir`.
/// The error says what to do.
pub fn token_for(admin: &Admin, state_dir: &Path, port: u16) -> Result<KeptToken, String> {
    if let Some(token) = &admin.token {
        return Ok(KeptToken { token: token.clone(), file: None });
    }
    let text = format!("{:032x}", rand::random::<u128>());
    let token = Token::new(&text).expect("32 hex digits are a token");
    let file = state_dir::write(state_dir, &file_name(port), &format!("{text}\n"))?;
    Ok(KeptToken { token, file: Some(file) })
}

/// The token that the balancer at this port of this machine takes: the operator's, or the one that it has left in
/// `state_dir`. The error says what to do.
pub fn find_token(admin: &Admin, state_dir: &Path, port: u16) -> Result<Token, String> {
    match &admin.token {
        Some(token) => Ok(token.clone()),
        None => Token::read(&state_dir.join(file_name(port))).map_err(|problem| {
            format!(
                "{problem}. It is there while a balancer of the same user and state_dir runs with its admin interface on \
                 port {port}; else give --token-file"
            )
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admin(token: Option<&str>) -> Admin {
        Admin { listen: None, is_written: false, token: token.and_then(Token::new) }
    }

    #[test]
    fn a_token_is_made_left_for_others_and_taken_away_at_the_end() {
        let above = tempfile::tempdir().unwrap();
        let dir = above.path().join("state");
        let kept = token_for(&admin(None), &dir, 55080).unwrap();
        assert_eq!(kept.token().as_str().len(), 32);
        assert_eq!(find_token(&admin(None), &dir, 55080).as_ref(), Ok(kept.token()));
        let other = find_token(&admin(None), &dir, 55081).unwrap_err();
        assert!(other.contains("admin-55081.token") && other.contains("--token-file"), "{other}");

        let next = token_for(&admin(None), &dir, 55080).unwrap();
        assert_ne!(next.token(), kept.token());
        drop(kept);
        assert_eq!(
            find_token(&admin(None), &dir, 55080).as_ref(),
            Ok(next.token()),
            "it is not the first one's"
        );
        drop(next);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
    }

    #[test]
    fn the_operators_token_is_used_and_stays_where_it_is() {
        let dir = Path::new("/nonexistent/state");
        let admin = admin(Some("0123456789abcdef"));
        let kept = token_for(&admin, dir, 1).unwrap();
        assert_eq!(find_token(&admin, dir, 1).as_ref(), Ok(kept.token()));
        assert!(kept.file.is_none());
    }
}
