//! Whose question it is. A browser asks here for whatever page it shows, under whatever name led it to this address: what
//! comes from another page, or by a name that could be anybody's (DNS rebinding), is refused.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use hyper::Uri;
use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, ORIGIN};

/// The longest token that lightningd is asked about.
const LONGEST: usize = 1_000;

/// What may be wrong with where a question comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    /// It is for another host.
    Host,
    /// It is another page's.
    Origin,
}

/// Whether the page itself asks, or a person who has typed its address.
pub fn check(target: &Uri, headers: &HeaderMap) -> Result<(), Foreign> {
    let host = one(headers, HOST).flatten().filter(|host| is_address(host)).ok_or(Foreign::Host)?;
    // What is asked for may name a host, too, as for a proxy.
    if target.authority().is_some_and(|named| !named.as_str().eq_ignore_ascii_case(host)) {
        return Err(Foreign::Host);
    }
    match one(headers, ORIGIN) {
        None => Ok(()),
        Some(Some(origin)) if is_of(origin, host) => Ok(()),
        Some(_) => Err(Foreign::Origin),
    }
}

/// What stands there: nothing if there is no such line, nothing inside if it can't be read or is there twice.
fn one(headers: &HeaderMap, name: HeaderName) -> Option<Option<&str>> {
    let mut all = headers.get_all(name).iter();
    let first = all.next()?;
    Some(first.to_str().ok().filter(|_| all.next().is_none()))
}

fn is_of(origin: &str, host: &str) -> bool {
    let of = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    of.is_some_and(|of| of.eq_ignore_ascii_case(host))
}

/// An IP address or `localhost`, with or without a port: nobody else's name can mean it.
fn is_address(host: &str) -> bool {
    let v6 = |host: &str| host.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok();
    let name = match host.split_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => name,
        _ => host,
    };
    host.parse::<SocketAddr>().is_ok()
        || host.parse::<Ipv4Addr>().is_ok()
        || v6(host).is_some()
        || name.eq_ignore_ascii_case("localhost")
}

/// The rune that comes with it, as `Authorization: Bearer <rune>`; nothing if it can't be one.
pub fn rune(headers: &HeaderMap) -> Option<&str> {
    let (scheme, rune) = one(headers, AUTHORIZATION)??.split_once(' ')?;
    let rune = rune.trim();
    // Base64, and no more: nothing else is handed on.
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_=+/".contains(&byte);
    let is_one = (1..=LONGEST).contains(&rune.len()) && rune.bytes().all(fits);
    (scheme.eq_ignore_ascii_case("bearer") && is_one).then_some(rune)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    fn headers(lines: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name.clone(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    fn asked(headers: &HeaderMap) -> Result<(), Foreign> {
        check(&Uri::from_static("/events"), headers)
    }

    #[test]
    fn hosts_that_nobody_else_can_be() {
        for host in [
            "127.0.0.1:9751",
            "127.0.0.1",
            "[::1]:9751",
            "[::1]",
            "192.0.2.7:80",
            "localhost",
            "LocalHost:9751",
        ] {
            assert_eq!(asked(&headers(&[(HOST, host)])), Ok(()), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:9751",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "127.0.0.1:9751.evil.example",
            "localhost:evil",
            "127.0.0.1 ",
            // A name, as resolvers have it.
            "localhost.",
            "127.0.0.1.",
            "evil.example:80@127.0.0.1:9751",
            "127.0.0.1:9751@evil.example",
            "127.0.0.1:99999",
            "[::1",
            "::1:x",
            "é",
        ] {
            assert_eq!(asked(&headers(&[(HOST, host)])), Err(Foreign::Host), "{host}");
        }
        assert_eq!(asked(&headers(&[])), Err(Foreign::Host));
        assert_eq!(asked(&headers(&[(HOST, "[::1]"), (HOST, "[::1]")])), Err(Foreign::Host));
    }

    /// As for a proxy: then it says the same twice.
    #[test]
    fn what_is_asked_for_names_no_other_host() {
        let here = headers(&[(HOST, "localhost:9751")]);
        for (target, expected) in [
            ("http://localhost:9751/events", Ok(())),
            ("http://LOCALHOST:9751/", Ok(())),
            ("http://evil.example/events", Err(Foreign::Host)),
            ("http://localhost:9752/events", Err(Foreign::Host)),
            ("http://evil.example@localhost:9751/", Err(Foreign::Host)),
        ] {
            assert_eq!(check(&Uri::from_static(target), &here), expected, "{target}");
        }
    }

    #[test]
    fn other_pages_get_nothing() {
        let from = |origin| asked(&headers(&[(HOST, "127.0.0.1:9751"), (ORIGIN, origin)]));
        assert_eq!(from("http://127.0.0.1:9751"), Ok(()));
        // Behind somebody who adds TLS.
        assert_eq!(from("https://127.0.0.1:9751"), Ok(()));
        for origin in [
            "null",
            "",
            "http://127.0.0.1",
            "http://127.0.0.1:9752",
            "http://localhost:9751",
            "http://evil.example",
            "http://127.0.0.1:9751.evil.example",
            "file://",
            "127.0.0.1:9751",
        ] {
            assert_eq!(from(origin), Err(Foreign::Origin), "{origin}");
        }
    }

    #[test]
    fn what_can_be_a_rune() {
        let of = |value: &str| rune(&headers(&[(AUTHORIZATION, value)])).map(str::to_owned);
        assert_eq!(of("Bearer aB3-_=+/"), Some("aB3-_=+/".to_owned()));
        assert_eq!(of("bearer  ab "), Some("ab".to_owned()));
        let long = format!("Bearer {}", "a".repeat(LONGEST + 1));
        for bad in
            ["", "Bearer", "Bearer ", "Basic ab", "Bearer a b", "Bearer a\"b", "Bearer é", long.as_str()]
        {
            assert_eq!(of(bad), None, "{bad}");
        }
        assert_eq!(rune(&headers(&[])), None);
        assert_eq!(rune(&headers(&[(AUTHORIZATION, "Bearer a"), (AUTHORIZATION, "Bearer b")])), None);
    }
}
