//! Where the token of the admin interface is.

use std::path::Path;

use crate::config::{Admin, Token};

/// The token that the balancer at this port of this machine takes: the operator's, or the one that it has left in
/// `state_dir`. The error says what is missing.
pub fn find_token(admin: &Admin, state_dir: &Path, port: u16) -> Result<Token, String> {
    match &admin.token {
        Some(token) => Ok(token.clone()),
        None => Token::read(&state_dir.join(format!("admin-{port}.token"))),
    }
}
