//! `type: network`: the keys of a probe, and the request that they come to.
//!
//! `url` takes `target_url` apart. Called by `monitor`.

use std::ops::RangeInclusive;
use std::time::Duration;

use figment::value::Value;
use http::header::{ACCEPT, CONNECTION, CONTENT_LENGTH, HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use rustls::pki_types::ServerName;

use super::super::probe::{Probe, Request, Statuses, Tls, Trust};
use super::super::section::{Item, Section};
use super::monitor::{INTERVAL, SHORTEST_INTERVAL};
use super::process::{DAY, optional};
use super::url::{self, Http};

/// The shortest time-out.
const SHORTEST_TIMEOUT: f64 = 0.01;
const LONGEST_DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
const START_PERIOD: Duration = Duration::from_secs(10);
/// The statuses that HTTP has.
const ALL_STATUSES: RangeInclusive<i64> = 100..=599;
/// Keys that only a request has.
const OF_A_REQUEST: [&str; 4] = ["expect_status", "expect_body", "method", "headers"];
/// Headers that belong to how a message is sent, and not to what is asked.
const OWN_HEADERS: [&str; 7] =
    ["connection", "content-length", "expect", "te", "trailer", "transfer-encoding", "upgrade"];

/// Reads the keys of a probe; `None` where one of them is missing or faulty.
pub(super) fn read(section: &mut Section<'_>) -> Option<Probe> {
    let url = section.required("target_url").and_then(|item| url::read(&item));
    let interval = section.seconds("interval_secs", SHORTEST_INTERVAL..=DAY).unwrap_or(INTERVAL);
    let timeout = section.seconds("timeout_secs", SHORTEST_TIMEOUT..=DAY);
    let failure_threshold = count(section, "failure_threshold").unwrap_or(3);
    let success_threshold = count(section, "success_threshold").unwrap_or(1);
    let start_period = section.seconds("start_period_secs", 0.0..=DAY).unwrap_or(START_PERIOD);
    let asked = asked(section);
    let tls = optional(section.section("tls"), Written::default, tls);

    let url = url?;
    let request = if let Some(http) = url.http {
        Some(request(section, &http, asked?, tls?)?)
    } else {
        for key in OF_A_REQUEST.into_iter().filter(|key| section.has(key)) {
            section.fault_at(key, "has a meaning with http://, https:// and http+unix:// only");
        }
        None
    };
    if section.has("tls") && request.as_ref().is_none_or(|request| request.tls.is_none()) {
        section.fault_at("tls", "has a meaning with https:// only");
    }
    Some(Probe {
        address: url.address,
        request,
        interval,
        timeout: timeout.unwrap_or(interval.min(LONGEST_DEFAULT_TIMEOUT)),
        failure_threshold,
        success_threshold,
        start_period,
    })
}

fn count(section: &mut Section<'_>, key: &'static str) -> Option<u32> {
    section.integer(key, 1..=1000).and_then(|count| u32::try_from(count).ok())
}

/// What the keys of a request say.
struct Asked {
    method: Method,
    headers: HeaderMap,
    expect_status: Statuses,
    expect_body: Option<String>,
}

fn asked(section: &mut Section<'_>) -> Option<Asked> {
    let methods = [Method::GET, Method::HEAD, Method::POST, Method::OPTIONS];
    let words = methods.each_ref().map(|method| (method.as_str(), method.clone()));
    let method = optional(section.item("method"), || Method::GET, |item| item.choice(&words));
    let headers = optional(section.item("headers"), HeaderMap::new, |item| headers(&item));
    let default = || Statuses(vec![200..=399]);
    let expect_status = optional(section.item("expect_status"), default, |item| statuses(&item));
    let expect_body = optional(section.item("expect_body"), || None, |item| item.word().map(Some));
    if method == Some(Method::HEAD) && section.has("expect_body") {
        section.fault_at("expect_body", "the answer to `method: HEAD` has no body");
    }
    Some(Asked {
        method: method?,
        headers: headers?,
        expect_status: expect_status?,
        expect_body: expect_body?,
    })
}

fn request(section: &Section<'_>, http: &Http, asked: Asked, tls: Written) -> Option<Request> {
    let named = || {
        server_name(&http.host).or_else(|| {
            section.fault_at(
                "target_url",
                format!("no certificate can be for \"{}\": say tls.server_name", http.host),
            );
            None
        })
    };
    let tls = match (http.tls, tls) {
        (false, _) => None,
        (true, Written { server_name: Some(server_name), trust }) => {
            Some(Tls { server_name, trust })
        }
        (true, Written { server_name: None, trust }) => Some(Tls { server_name: named()?, trust }),
    };
    // What is written wins, but for how the request is sent.
    let mut headers = asked.headers;
    headers.entry(HOST).or_insert_with(|| http.authority.clone());
    let agent = HeaderValue::from_static(concat!("healer/", env!("CARGO_PKG_VERSION")));
    headers.entry(USER_AGENT).or_insert(agent);
    headers.entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    if asked.method == Method::POST {
        // Some servers refuse one that does not say so.
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    Some(Request {
        tls,
        method: asked.method,
        path: http.path.clone(),
        headers,
        expect_status: asked.expect_status,
        expect_body: asked.expect_body,
    })
}

/// A status, a range in quotes, or a list of these.
fn statuses(item: &Item<'_>) -> Option<Statuses> {
    let items = match item.value {
        Value::Array(..) => item.list()?,
        _ => vec![item.clone()],
    };
    if items.is_empty() {
        item.fault("must not be empty: say which status is a success");
        return None;
    }
    let read: Vec<_> = items.iter().filter_map(status).collect();
    (read.len() == items.len()).then_some(Statuses(read))
}

fn status(item: &Item<'_>) -> Option<RangeInclusive<u16>> {
    let Value::String(_, text) = item.value else {
        let status = u16::try_from(item.integer(ALL_STATUSES)?).ok()?;
        return Some(status..=status);
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| {
        let number = text.trim().parse::<u16>().ok()?;
        ALL_STATUSES.contains(&i64::from(number)).then_some(number)
    };
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => Some(first..=last),
        _ => item.expected("a status from 100 to 599, or a range such as \"200-399\","),
    }
}

fn headers(item: &Item<'_>) -> Option<HeaderMap> {
    let written = item.map_of_texts(|name| {
        if HeaderName::from_bytes(name.as_bytes()).is_err() {
            Some("is no header's name")
        } else if OWN_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
            Some("belongs to how the request is sent, which is healer's to say: remove it")
        } else {
            None
        }
    })?;
    let mut headers = HeaderMap::new();
    for (name, value) in written {
        let Ok(mut value) = HeaderValue::from_str(&value) else {
            item.fault(format!("the value of {name} must be one line of visible characters"));
            return None;
        };
        // It may be a secret: not to be shown where a configuration is.
        value.set_sensitive(true);
        let known = HeaderName::from_bytes(name.as_bytes()).ok()?;
        if headers.insert(known, value).is_some() {
            item.fault(format!("{name} is given twice: remove one of the two"));
            return None;
        }
    }
    Some(headers)
}

/// `tls` as it is written.
struct Written {
    /// `None`: that of `target_url`.
    server_name: Option<ServerName<'static>>,
    trust: Trust,
}

impl Default for Written {
    fn default() -> Self {
        Self { server_name: None, trust: Trust::Machine }
    }
}

fn tls(mut tls: Section<'_>) -> Option<Written> {
    let machine = || Trust::Machine;
    let file = |item: Item<'_>| item.absolute_path().map(Trust::File);
    let trust = optional(tls.item("ca_file"), machine, file);
    let server_name = optional(
        tls.item("server_name"),
        || None,
        |item| {
            let text = item.word()?;
            let name = server_name(&text);
            if name.is_none() {
                item.fault("is neither a host's name nor an IP address");
            }
            name.map(Some)
        },
    );
    let insecure = tls.flag("insecure") == Some(true);
    if insecure && tls.has("ca_file") {
        tls.fault_at("insecure", "`insecure: true` and ca_file exclude each other: remove one");
    }
    tls.finish();
    let trust = if insecure { Trust::Anyone } else { trust? };
    Some(Written { server_name: server_name?, trust })
}

/// What a certificate can be for.
fn server_name(text: &str) -> Option<ServerName<'static>> {
    let text = text.strip_suffix('.').unwrap_or(text);
    ServerName::try_from(text).ok().map(|name| name.to_owned())
}
