//! `target_url`: where a probe connects, and what HTTP asks there.
//!
//! Called by `network`. Nothing is taken on trust: what cannot be sent as written, or would be
//! understood in two ways, is a fault with the way to write it.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use http::HeaderValue;
use http::uri::PathAndQuery;

use super::super::fault::{quoted, suggestion};
use super::super::probe::Address;
use super::super::section::Item;

/// `sun_path` of unix(7), less its NUL.
const LONGEST_SOCKET: usize = 107;
/// RFC 1035.
const LONGEST_NAME: usize = 253;
const LONGEST_LABEL: usize = 63;

/// `target_url`, taken apart.
pub(super) struct Url {
    pub address: Address,
    /// `None`: nothing is asked.
    pub http: Option<Http>,
}

/// What HTTP needs of the URL.
pub(super) struct Http {
    pub tls: bool,
    /// Without brackets.
    pub host: String,
    /// As the Host header has it: without a default port.
    pub authority: HeaderValue,
    pub path: PathAndQuery,
}

/// The schemes.
#[derive(Clone, Copy, PartialEq)]
enum Scheme {
    Http,
    Https,
    Tcp,
    Unix,
    HttpUnix,
}

const SCHEMES: [(&str, Scheme, &str); 5] = [
    ("http", Scheme::Http, "http://127.0.0.1:8080/health"),
    ("https", Scheme::Https, "https://www.example.org/health"),
    ("tcp", Scheme::Tcp, "tcp://127.0.0.1:5432"),
    ("unix", Scheme::Unix, "unix:///run/web.sock"),
    ("http+unix", Scheme::HttpUnix, "http+unix:///run/web.sock:/health"),
];

/// Reads `target_url`.
pub(super) fn read(item: &Item<'_>) -> Option<Url> {
    let text = item.word()?;
    parse(&text).map_err(|fault| item.fault(fault)).ok()
}

fn parse(text: &str) -> Result<Url, String> {
    let (scheme, rest) = text.split_once("://").unwrap_or((text, ""));
    let lower = scheme.to_ascii_lowercase();
    let Some((_, scheme, example)) = SCHEMES.into_iter().find(|(name, ..)| *name == lower) else {
        let close = suggestion(scheme, SCHEMES.map(|(name, ..)| name));
        return Err(format!(
            "{} must begin with http://, https://, tcp://, unix:// or http+unix://{close}",
            quoted(text)
        ));
    };
    if let Some(wrong) = rest.chars().find(|c| !c.is_ascii_graphic()) {
        let bytes = wrong.to_string().into_bytes();
        let encoded = bytes.iter().fold(String::new(), |text, byte| format!("{text}%{byte:02X}"));
        return Err(format!("{wrong:?} cannot be in a URL as it is: {encoded} in a path"));
    }
    if rest.contains('#') {
        return Err("what follows # is never sent: remove it (a # itself is %23)".to_owned());
    }
    let nothing = || format!("{} names no target; such as {example} does", quoted(text));
    match scheme {
        Scheme::Unix | Scheme::HttpUnix if !rest.starts_with('/') => Err(nothing()),
        Scheme::Unix => Ok(Url { address: socket(rest)?, http: None }),
        Scheme::HttpUnix => {
            // A socket's own colon is written %3A.
            let (path, target) = rest.split_once(':').unwrap_or((rest, "/"));
            let host = "localhost".to_owned();
            let authority = HeaderValue::from_static("localhost");
            let http = Http { tls: false, host, authority, path: path_and_query(target)? };
            Ok(Url { address: socket(path)?, http: Some(http) })
        }
        Scheme::Http | Scheme::Https | Scheme::Tcp => {
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            let (authority, target) = rest.split_at(end);
            if authority.is_empty() {
                return Err(nothing());
            }
            network(scheme, authority, target, example)
        }
    }
}

fn network(scheme: Scheme, authority: &str, target: &str, example: &str) -> Result<Url, String> {
    if authority.contains('@') {
        return Err("must not hold a user or a password: send them as a header, such as \
                    headers: { Authorization: \"Basic …\" }"
            .to_owned());
    }
    let (host, port) = split_port(authority)?;
    let default = match scheme {
        Scheme::Https => Some(443),
        Scheme::Http => Some(80),
        _ => None,
    };
    let Some(number) = port.or(default) else {
        return Err(format!("must say the port, as {example} does"));
    };
    let address = address(host, number)?;
    if scheme == Scheme::Tcp {
        return match target {
            "" | "/" => Ok(Url { address, http: None }),
            _ => Err("tcp:// takes a host and a port only: remove the path".to_owned()),
        };
    }
    let shown = if port == default { authority_of(host, None) } else { authority_of(host, port) };
    let http = Http {
        tls: scheme == Scheme::Https,
        host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
        authority: HeaderValue::try_from(shown).map_err(|_| no_host(host))?,
        path: path_and_query(target)?,
    };
    Ok(Url { address, http: Some(http) })
}

fn authority_of(host: &str, port: Option<u16>) -> String {
    port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// The host, in its brackets if it has some, and the port.
fn split_port(authority: &str) -> Result<(&str, Option<u16>), String> {
    let after_brackets = match authority.rfind(']') {
        Some(end) => end + 1,
        None if authority.matches(':').count() > 1 => {
            return Err(format!("an IPv6 address is written in brackets: [{authority}]"));
        }
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, rest) = authority.split_at(after_brackets);
    if rest.is_empty() {
        return Ok((host, None));
    }
    let digits = rest.strip_prefix(':').filter(|port| port.bytes().all(|b| b.is_ascii_digit()));
    match digits.and_then(|digits| digits.parse().ok()) {
        Some(port) if port > 0 => Ok((host, Some(port))),
        _ => Err(format!("the port must be from 1 to 65535, not {}", quoted(&rest[1..]))),
    }
}

fn address(host: &str, port: u16) -> Result<Address, String> {
    if let Some(inner) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return match inner.parse::<Ipv6Addr>() {
            Ok(ip) => Ok(Address::ip(IpAddr::V6(ip), port)),
            Err(_) if inner.contains('%') => {
                Err("an IPv6 address with a zone (%) is not supported".to_owned())
            }
            Err(_) => Err(format!("{} is no IPv6 address", quoted(inner))),
        };
    }
    if let Ok(ip) = host.parse::<Ipv4Addr>() {
        return Ok(Address::ip(IpAddr::V4(ip), port));
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let label = |label: &str| {
        let letters = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        !label.is_empty() && label.len() <= LONGEST_LABEL && letters
    };
    // Whose last part is a number is meant to be an address (and 127.1 may mean two).
    let last = name.rsplit('.').next().unwrap_or_default();
    let is_number = last.bytes().all(|b| b.is_ascii_digit());
    if name.len() > LONGEST_NAME || !name.split('.').all(label) || is_number {
        return Err(no_host(host));
    }
    Ok(Address::Name { name: host.to_ascii_lowercase(), port })
}

fn no_host(host: &str) -> String {
    format!(
        "{} is neither a host's name (letters, digits, - _ and dots; others as xn--…) nor an IP \
         address",
        quoted(host)
    )
}

fn socket(path: &str) -> Result<Address, String> {
    let path = String::from_utf8(decoded(path)?)
        .map_err(|_| "the path of a socket must be UTF-8 text".to_owned())?;
    if path.contains('\0') {
        return Err("the path of a socket must not contain a NUL character".to_owned());
    }
    if path.len() > LONGEST_SOCKET {
        let length = path.len();
        return Err(format!(
            "the path of a socket has at most {LONGEST_SOCKET} bytes, this one {length}"
        ));
    }
    Ok(Address::Socket(path.into()))
}

fn path_and_query(target: &str) -> Result<PathAndQuery, String> {
    decoded(target)?;
    let whole = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
    PathAndQuery::try_from(whole).map_err(|_| format!("{} is no path of a URL", quoted(target)))
}

/// The bytes that a path means.
fn decoded(path: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (high, low) = (digit(), digit());
        let meant = high.zip(low).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
        bytes
            .push(meant.ok_or("% must be followed by two hexadecimal digits (a % itself is %25)")?);
    }
    Ok(bytes)
}
