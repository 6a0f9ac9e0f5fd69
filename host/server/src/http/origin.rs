//! Which pages and names may speak to a node. One without tokens trusts whoever reaches it from its own
//! machine; a browser there runs other people's pages, and a name of theirs may be made to lead to loopback.

use std::net::IpAddr;

use axum::http::{HeaderMap, header};
use url::Url;

use super::{Code, Error};

/// Ends of names that no stranger can register.
const OWN_DOMAINS: [&str; 5] = ["localhost", "local", "internal", "test", "home.arpa"];
/// Schemes of programs that show pages of their own.
const OWN_SCHEMES: [&str; 5] = ["app", "file", "tauri", "vscode-file", "vscode-webview"];

/// Refuses what a stranger's page could send to a node that asks for no token.
pub(super) fn check(headers: &HeaderMap, public_url: Option<&str>) -> Result<(), Error> {
    let public = public_url.and_then(|url| Url::parse(url).ok()?.host_str().map(str::to_owned));
    if let Some(host) = text(headers, header::HOST)
        && let name = host_name(host)
        && !(is_own(name) || public.as_deref().is_some_and(|public| is_within(name, public)))
    {
        return Err(refused(format!(
            "a node without tokens answers to its own machine's names only, \"{}\" is none; --public-url \
             says which other it has",
            shortened(name)
        )));
    }
    check_page(headers)
}

/// Refuses a page of another origin than the host it asks.
pub(super) fn check_page(headers: &HeaderMap) -> Result<(), Error> {
    let Some(origin) = text(headers, header::ORIGIN) else { return Ok(()) };
    let host = text(headers, header::HOST).unwrap_or_default();
    let is_known = match origin.split_once("://") {
        Some(("http" | "https", from)) => from.eq_ignore_ascii_case(host) || is_loopback(host_name(from)),
        Some((scheme, _)) => OWN_SCHEMES.contains(&scheme),
        None => false,
    };
    match is_known {
        true => Ok(()),
        false => Err(refused(format!("a page of \"{}\" may not call this", shortened(origin)))),
    }
}

fn refused(message: String) -> Error {
    Error::new(Code::Forbidden, message)
}

/// A header's text; what is none is as foreign as can be.
fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).map(|value| value.to_str().unwrap_or("?"))
}

/// The name in `NAME`, `NAME:PORT` or `[ADDRESS]:PORT`.
fn host_name(host: &str) -> &str {
    let end = match host.strip_prefix('[') {
        Some(rest) => return rest.split(']').next().unwrap_or_default(),
        None => host.rfind(':').unwrap_or(host.len()),
    };
    host[..end].trim_end_matches('.')
}

/// Whether a name can't be a stranger's: an address, a name without a domain or in a domain of one's own.
fn is_own(name: &str) -> bool {
    name.parse::<IpAddr>().is_ok()
        || !name.contains('.')
        || OWN_DOMAINS.iter().any(|domain| is_within(name, domain))
}

fn is_loopback(name: &str) -> bool {
    name.parse::<IpAddr>().map_or(is_within(name, "localhost"), |address| address.is_loopback())
}

/// Whether a name is a domain's or one below it.
fn is_within(name: &str, domain: &str) -> bool {
    let (name, domain) = (name.to_ascii_lowercase(), domain.to_ascii_lowercase());
    name.strip_suffix(&domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn shortened(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn asked(host: &str, origin: Option<&str>, public_url: Option<&str>) -> bool {
        let mut headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_str(host).unwrap())]);
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, HeaderValue::from_str(origin).unwrap());
        }
        check(&headers, public_url).is_ok()
    }

    #[test]
    fn a_name_that_may_be_a_strangers_is_refused() {
        for own in
            ["127.0.0.1:8080", "[::1]:8080", "localhost", "f.localhost:1", "node", "host.docker.internal:80"]
        {
            assert!(asked(own, None, None), "{own}");
        }
        for strange in
            ["evil.example:8080", "localhost.evil.example", "evillocalhost.example", "127.0.0.1.evil.example"]
        {
            assert!(!asked(strange, None, None), "{strange}");
        }
        assert!(asked("api.me.example", None, Some("https://me.example/")));
        assert!(!asked("notme.example", None, Some("https://me.example/")));
        assert!(check(&HeaderMap::new(), None).is_ok());
    }

    #[test]
    fn a_strangers_page_is_refused() {
        let page = |origin| asked("127.0.0.1:8080", Some(origin), None);
        for own in ["http://127.0.0.1:8080", "http://localhost:3000", "http://[::1]:1", "tauri://localhost"] {
            assert!(page(own), "{own}");
        }
        for strange in
            ["http://evil.example", "null", "https://localhost.evil.example", "moz-extension://1", ""]
        {
            assert!(!page(strange), "{strange}");
        }
    }
}
