//! The section `admin`.

use std::net::SocketAddr;
use std::path::Path;

use super::key::read_private;
use super::raw::RawAdmin;
use super::reader::{Read, Reader};

/// Default address of the admin interface.
const LISTEN: &str = "127.0.0.1:55080";

/// The admin interface of a balancer.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The address it listens on; `None` = it is off.
    pub listen: Option<SocketAddr>,
    /// Whether `listen` is written, so that another process there is an error.
    pub is_written: bool,
    /// The token that changes need; `None` = each process makes one, for this machine only.
    pub token: Option<Token>,
}

impl Admin {
    /// The address at which a process on this machine reaches it; `None` = it is off.
    pub fn reach(&self) -> Option<SocketAddr> {
        self.listen.map(super::reachable)
    }
}

/// A secret that every change over HTTP needs.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The least length, and the most, of a token.
    const LEN: std::ops::RangeInclusive<usize> = 16..=256;

    /// A token from its text: 16 to 256 printable ASCII characters without spaces.
    pub fn new(text: &str) -> Option<Token> {
        let text = text.trim();
        let fits = Self::LEN.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| Token(text.to_owned()))
    }

    /// Reads one from a file with mode 0600 (or stricter).
    pub fn read(path: &Path) -> Result<Token, String> {
        let shown = path.display();
        Token::new(&read_private(path, "a token")?).ok_or_else(|| {
            format!(
                "{shown} does not hold a token of 16 to 256 characters without spaces; make one with \
                 `openssl rand -hex 16 > {shown}`"
            )
        })
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Reader<'_> {
    pub(super) fn admin(&self, raw: &RawAdmin) -> Read<Admin> {
        let listen = match raw.listen.as_deref().map_or(LISTEN, str::trim) {
            "off" => None,
            text => Some(text.parse::<SocketAddr>().map_err(|_| {
                let problem = format_args!("is not an address; write IP:PORT such as {LISTEN}, or off");
                self.refuse("admin.listen", text, problem)
            })?),
        };
        let token = raw.token_file.as_ref().map(|path| Token::read(Path::new(path))).transpose();
        let token = token.map_err(|problem| self.error("admin.token_file", problem))?;
        if let Some(addr) = listen.filter(|addr| !addr.ip().is_loopback() && token.is_none()) {
            let problem = format!(
                "{} is not a loopback address, so changes need a known token; set admin.token_file, or keep \
                 it on 127.0.0.1",
                addr.ip()
            );
            return Err(self.error("admin.listen", problem));
        }
        Ok(Admin { listen, is_written: raw.listen.is_some(), token })
    }
}
