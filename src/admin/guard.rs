//! Who may read, and who may make changes.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, HeaderValue, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::{Extension, extract};
use subtle::ConstantTimeEq;

use super::app::{AppState, failure};
use crate::config::Token;

/// The way on which a connection came.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    /// Over TCP, to this local address.
    Http(SocketAddr),
    /// Over the socket of the balancer's owner, from a process of the same user or of root.
    Owner,
}

const TOKEN_NEEDED: &str = "changes need the header `Authorization: Bearer TOKEN`; the token is in the \
    file of admin.token_file, or else in admin-PORT.token in the balancer's state_dir";

/// Passes only requests with the token, or of the balancer's owner, who could read the token.
pub(super) async fn needs_token(
    State(app): State<AppState>,
    Extension(way): Extension<Way>,
    request: Request,
    next: Next,
) -> Response {
    let has_token = app.token.as_ref().is_some_and(|token| knows(request.headers(), token));
    if has_token || matches!(way, Way::Owner) {
        return next.run(request).await;
    }
    let mut response = failure(StatusCode::UNAUTHORIZED, TOKEN_NEEDED).into_response();
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// Whether the only `Authorization` has the token. The time does not depend on how much of the token is
/// right.
fn knows(headers: &HeaderMap, token: &Token) -> bool {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let (Some(given), None) = (all.next(), all.next()) else { return false };
    let Some((scheme, word)) = given.as_bytes().split_at_checked("Bearer ".len()) else { return false };
    scheme.eq_ignore_ascii_case(b"Bearer ") && bool::from(word.trim_ascii().ct_eq(token.as_str().as_bytes()))
}

/// Refuses pages of strangers. With DNS rebinding, a foreign name leads to the loopback, and a browser on
/// this machine sends requests here. Such a request has the foreign name as its Host. So a request over the
/// loopback must name an IP address or localhost.
pub(super) async fn is_meant(Extension(way): Extension<Way>, request: Request, next: Next) -> Response {
    let is_loopback = matches!(way, Way::Http(local) if local.ip().to_canonical().is_loopback());
    if is_loopback && !says_plain_host(request.headers(), request.uri()) {
        let refused = failure(
            StatusCode::FORBIDDEN,
            "over the loopback the Host must be an IP address or localhost, which keeps foreign pages out",
        );
        return refused.into_response();
    }
    next.run(request).await
}

fn says_plain_host(headers: &HeaderMap, uri: &Uri) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    host.to_str().is_ok_and(is_plain) && uri.authority().is_none_or(|authority| is_plain(authority.as_str()))
}

/// Whether `host` or `host:port` is localhost or an IP address.
fn is_plain(authority: &str) -> bool {
    let port =
        |text: &str| text.is_empty() || text.strip_prefix(':').is_some_and(|p| p.parse::<u16>().is_ok());
    let (host, rest) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((ip, rest)) => return port(rest) && matches!(ip.parse(), Ok(IpAddr::V6(_))),
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    port(rest) && (host.eq_ignore_ascii_case("localhost") || matches!(host.parse(), Ok(IpAddr::V4(_))))
}

/// Headers of every answer: a browser neither stores nor frames it, nor guesses its type.
pub(super) async fn with_headers(request: extract::Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
        ("content-security-policy", POLICY),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The page is one file: its own script, style and pictures, and requests to its own address only.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
    img-src data:; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ip_address_or_localhost_is_plain() {
        for (host, expected) in [
            ("127.0.0.1:55080", true),
            ("127.0.0.1", true),
            ("10.1.2.3:80", true),
            ("localhost:55080", true),
            ("LOCALHOST", true),
            ("[::1]:55080", true),
            ("[::1]", true),
            ("evil.example:55080", false),
            ("evil.example", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("127.0.0.1:evil", false),
            ("127.0.0.1:80:80", false),
            ("user@127.0.0.1", false),
            ("[evil]:80", false),
            ("[127.0.0.1]", false),
            ("::1", false),
            ("2130706433", false),
            ("", false),
        ] {
            assert_eq!(is_plain(host), expected, "{host}");
        }
    }

    #[test]
    fn the_whole_token_and_only_that_opens() {
        let token = Token::new("0123456789abcdef").unwrap();
        for (given, expected) in [
            (&["Bearer 0123456789abcdef"][..], true),
            (&["bearer 0123456789abcdef"], true),
            (&[], false),
            (&["Bearer "], false),
            (&["Bearer"], false),
            (&["0123456789abcdef"], false),
            (&["Basic 0123456789abcdef"], false),
            (&["Bearer 0123456789abcde"], false),
            (&["Bearer 0123456789abcdeF"], false),
            (&["Bearer 0123456789abcdef0"], false),
            (&["Bearer 0123456789abcdef", "Bearer x"], false),
        ] {
            let mut headers = HeaderMap::new();
            for value in given {
                headers.append(AUTHORIZATION, HeaderValue::from_static(value));
            }
            assert_eq!(knows(&headers, &token), expected, "{given:?}");
        }
    }
}
