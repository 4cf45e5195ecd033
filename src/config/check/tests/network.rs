//! Probes: each key's meaning, each fault, and entries that are only watched.

use core::net::SocketAddr;

use http::Method;
use rustls::pki_types::ServerName;

use super::super::super::probe::{Address, Probe, Statuses, Tls, Trust};
use super::*;

/// The probe of an entry with these keys.
fn probe(keys: &str) -> Arc<Probe> {
    let config = checked(&entry(keys), &ROOT).config;
    Arc::clone(config.processes[0].probe().expect("it has a probe"))
}

fn entry(keys: &str) -> String {
    only(&format!("name: a, command: /x, run_as_root: true, monitor: {{type: network, {keys}}}"))
}

/// The faults of a probe with these keys, without the places.
fn said(text: &str) -> Vec<String> {
    let without_place = |fault: &String| {
        let (path, rest) = fault.split_once(" (").unwrap();
        let (_, message) = rest.split_once("): ").unwrap();
        format!("{path}: {message}")
    };
    faults(text).iter().map(without_place).collect()
}

#[test]
fn a_probe_gets_the_defaults() {
    let probe = probe("target_url: 'http://127.0.0.1:8080/health'");
    assert_eq!(probe.address, Address::Ip(SocketAddr::from(([127, 0, 0, 1], 8080))));
    assert_eq!(probe.interval, Duration::from_secs(5));
    assert_eq!(probe.timeout, Duration::from_secs(5));
    assert_eq!((probe.failure_threshold, probe.success_threshold), (3, 1));
    assert_eq!(probe.start_period, Duration::from_secs(10));
    let request = probe.request.as_ref().unwrap();
    assert_eq!(request.method, Method::GET);
    assert_eq!(request.path, "/health");
    assert_eq!(request.expect_status, Statuses(vec![200..=399]));
    assert_eq!((&request.expect_body, &request.tls), (&None, &None));
    let mut headers: Vec<_> = request.headers.iter().map(|(n, v)| format!("{n}: {v:?}")).collect();
    headers.sort();
    let agent = concat!("user-agent: \"healer/", env!("CARGO_PKG_VERSION"), "\"");
    let expected = ["accept: \"*/*\"", "connection: \"close\"", "host: \"127.0.0.1:8080\"", agent];
    assert_eq!(headers, expected);
}

#[test]
fn every_key_of_a_probe_has_its_meaning() {
    let probe = probe(
        "target_url: 'https://App.example:8443/a/b%20c?d=e', interval_secs: 60, timeout_secs: 0.5, \
         failure_threshold: 2, success_threshold: 4, start_period_secs: 0, \
         expect_status: [200, '204-299', '404'], expect_body: 'a \"b\"', method: POST, \
         headers: {Host: b.example, authorization: 'Basic abc'}, \
         tls: {ca_file: /etc/ca.pem, server_name: c.example}",
    );
    assert_eq!(probe.address, Address::Name { name: "app.example".into(), port: 8443 });
    assert_eq!(probe.interval, Duration::from_secs(60));
    assert_eq!(probe.timeout, Duration::from_millis(500));
    assert_eq!((probe.failure_threshold, probe.success_threshold), (2, 4));
    assert_eq!(probe.start_period, Duration::ZERO);
    let request = probe.request.as_ref().unwrap();
    assert_eq!(request.method, Method::POST);
    assert_eq!(request.path, "/a/b%20c?d=e");
    assert_eq!(request.expect_status, Statuses(vec![200..=200, 204..=299, 404..=404]));
    assert_eq!(request.expect_body.as_deref(), Some("a \"b\""));
    assert_eq!(request.headers["host"], "b.example");
    assert_eq!(request.headers["authorization"], "Basic abc");
    let tls = Tls {
        server_name: ServerName::try_from("c.example").unwrap(),
        trust: Trust::File("/etc/ca.pem".into()),
    };
    assert_eq!(request.tls, Some(tls));
    assert!(!format!("{request:?}").contains("abc"), "a header may be a secret: {request:?}");
}

#[rstest]
#[case::short_interval("interval_secs: 2", 2)]
#[case::long_interval("interval_secs: 600", 5)]
#[case::written("interval_secs: 2, timeout_secs: 9", 9)]
fn the_time_out_is_the_smaller_of_the_interval_and_five_seconds(
    #[case] keys: &str,
    #[case] secs: u64,
) {
    let probe = probe(&format!("target_url: 'tcp://a:1', {keys}"));
    assert_eq!(probe.timeout, Duration::from_secs(secs));
}

#[rstest]
#[case::ip("tcp://127.0.0.1:5432", "127.0.0.1:5432")]
#[case::ip6("tcp://[::1]:5432", "[::1]:5432")]
#[case::name("tcp://db_1.Example.:5432", "db_1.example. 5432")]
#[case::http("http://a", "a 80 / Host: a")]
#[case::http_port("http://a:80/x", "a 80 /x Host: a")]
#[case::other_port("HTTP://a:8080?q=1", "a 8080 /?q=1 Host: a:8080")]
#[case::https("https://a/", "a 443 / Host: a for a")]
#[case::https_port("https://a.:443/", "a. 443 / Host: a. for a")]
#[case::https_ip6(
    "https://[2001:DB8::1]/",
    "[2001:db8::1]:443 / Host: [2001:DB8::1] for 2001:db8::1"
)]
#[case::encoded("http://a/%25%c3%a4?x=%26&y=[1]", "a 80 /%25%c3%a4?x=%26&y=[1] Host: a")]
#[case::unix("unix:///run/a.sock", "/run/a.sock")]
#[case::unix_encoded("unix:///run/a%20b%3Ac%25", "/run/a b:c%")]
#[case::unix_colon("unix:///run/a:b", "/run/a:b")]
#[case::http_unix("http+unix:///run/a.sock:/health?x", "/run/a.sock /health?x Host: localhost")]
#[case::http_unix_short("http+unix:///run/a.sock", "/run/a.sock / Host: localhost")]
#[case::http_unix_colon("http+unix:///run/a%3Ab:/c:d", "/run/a:b /c:d Host: localhost")]
fn a_url_means(#[case] url: &str, #[case] expected: &str) {
    let probe = probe(&format!("target_url: '{url}'"));
    let mut meant = match &probe.address {
        Address::Ip(address) => address.to_string(),
        Address::Name { name, port } => format!("{name} {port}"),
        Address::Socket(path) => path.display().to_string(),
    };
    if let Some(request) = &probe.request {
        let host = request.headers["host"].to_str().unwrap();
        meant = format!("{meant} {} Host: {host}", request.path);
        if let Some(tls) = &request.tls {
            meant = format!("{meant} for {}", tls.server_name.to_str());
        }
    }
    assert_eq!(meant, expected);
}

#[rstest]
#[case::scheme(
    "htpp://a",
    "\"htpp://a\" must begin with http://, https://, tcp://, unix:// or http+unix://, did you mean \"http\"?"
)]
#[case::no_scheme(
    "localhost:8080",
    "\"localhost:8080\" must begin with http://, https://, tcp://, unix:// or http+unix://"
)]
#[case::nothing(
    "http://",
    "\"http://\" names no target; such as http://127.0.0.1:8080/health does"
)]
#[case::no_host(
    "https:///health",
    "\"https:///health\" names no target; such as https://www.example.org/health does"
)]
#[case::relative_socket(
    "unix://a",
    "\"unix://a\" names no target; such as unix:///run/web.sock does"
)]
#[case::encoded_socket(
    "http+unix://%2Frun%2Fa/x",
    "\"http+unix://%2Frun%2Fa/x\" names no target; such as http+unix:///run/web.sock:/health does"
)]
#[case::user(
    "http://me:secret@a/",
    "must not hold a user or a password: send them as a header, such as headers: { Authorization: \"Basic …\" }"
)]
#[case::no_port("tcp://a", "must say the port, as tcp://127.0.0.1:5432 does")]
#[case::empty_port("http://a:/", "the port must be from 1 to 65535, not \"\"")]
#[case::port_zero("tcp://a:0", "the port must be from 1 to 65535, not \"0\"")]
#[case::port_high("tcp://a:65536", "the port must be from 1 to 65535, not \"65536\"")]
#[case::port_signed("tcp://a:+1", "the port must be from 1 to 65535, not \"+1\"")]
#[case::path("tcp://a:1/x", "tcp:// takes a host and a port only: remove the path")]
#[case::bare_ip6("tcp://::1:80", "an IPv6 address is written in brackets: [::1:80]")]
#[case::wrong_ip6("http://[::g]/", "\"::g\" is no IPv6 address")]
#[case::zone("http://[fe80::1%25eth0]/", "an IPv6 address with a zone (%) is not supported")]
#[case::after_brackets("http://[::1]x/", "the port must be from 1 to 65535, not \"\"")]
#[case::short_ip(
    "http://127.1/",
    "\"127.1\" is neither a host's name (letters, digits, - _ and dots; others as xn--…) nor an IP address"
)]
#[case::host(
    "http://a..b/",
    "\"a..b\" is neither a host's name (letters, digits, - _ and dots; others as xn--…) nor an IP address"
)]
#[case::encoded_host(
    "http://%61/",
    "\"%61\" is neither a host's name (letters, digits, - _ and dots; others as xn--…) nor an IP address"
)]
#[case::umlaut("http://a/ä", "'ä' cannot be in a URL as it is: %C3%A4 in a path")]
#[case::blank("http://a/b c", "' ' cannot be in a URL as it is: %20 in a path")]
#[case::half_encoded(
    "http://a/100%",
    "% must be followed by two hexadecimal digits (a % itself is %25)"
)]
#[case::wrongly_encoded(
    "unix:///%+1",
    "% must be followed by two hexadecimal digits (a % itself is %25)"
)]
#[case::fragment("http://a/#b", "what follows # is never sent: remove it (a # itself is %23)")]
#[case::nul("unix:///a%00", "the path of a socket must not contain a NUL character")]
#[case::latin_socket("unix:///%e4", "the path of a socket must be UTF-8 text")]
#[case::long_socket(
    &format!("unix:///{}", "a".repeat(107)),
    "the path of a socket has at most 107 bytes, this one 108"
)]
fn a_url_is_refused(#[case] url: &str, #[case] fault: &str) {
    let expected = format!("processes[0].monitor.target_url: {fault}");
    assert_eq!(said(&entry(&format!("target_url: '{url}'"))), [expected]);
}

#[rstest]
#[case::no_target("interval_secs: 5", ": the key `target_url` is missing")]
#[case::interval(
    "target_url: 'tcp://a:1', interval_secs: 0",
    ".interval_secs: must be greater than 0: from 0.1 to 86400, not the number 0"
)]
#[case::timeout(
    "target_url: 'tcp://a:1', timeout_secs: 0",
    ".timeout_secs: must be greater than 0: from 0.01 to 86400, not the number 0"
)]
#[case::failures(
    "target_url: 'tcp://a:1', failure_threshold: 0",
    ".failure_threshold: must be from 1 to 1000, not 0"
)]
#[case::successes(
    "target_url: 'tcp://a:1', success_threshold: 1001",
    ".success_threshold: must be from 1 to 1000, not 1001"
)]
#[case::status(
    "target_url: 'http://a', expect_status: 99",
    ".expect_status: must be from 100 to 599, not 99"
)]
#[case::status_range(
    "target_url: 'http://a', expect_status: 399-200",
    ".expect_status: a status from 100 to 599, or a range such as \"200-399\", is expected, not the text \"399-200\""
)]
#[case::status_text(
    "target_url: 'http://a', expect_status: [ok]",
    ".expect_status[0]: a status from 100 to 599, or a range such as \"200-399\", is expected, not the text \"ok\""
)]
#[case::no_status(
    "target_url: 'http://a', expect_status: []",
    ".expect_status: must not be empty: say which status is a success"
)]
#[case::body("target_url: 'http://a', expect_body: ''", ".expect_body: must not be empty")]
#[case::body_of_head(
    "target_url: 'http://a', expect_body: x, method: HEAD",
    ".expect_body: the answer to `method: HEAD` has no body"
)]
#[case::method(
    "target_url: 'http://a', method: DELETE",
    ".method: \"DELETE\" is not one of GET, HEAD, POST, OPTIONS"
)]
#[case::header_name(
    "target_url: 'http://a', headers: {'a b': c}",
    ".headers[\"a b\"]: is no header's name"
)]
#[case::own_header(
    "target_url: 'http://a', headers: {Content-Length: '0'}",
    ".headers.Content-Length: belongs to how the request is sent, which is healer's to say: remove it"
)]
#[case::header_value(
    "target_url: 'http://a', headers: {a: \"b\\nc\"}",
    ".headers: the value of a must be one line of visible characters"
)]
#[case::header_twice(
    "target_url: 'http://a', headers: {A: b, a: c}",
    ".headers: a is given twice: remove one of the two"
)]
#[case::header_number(
    "target_url: 'http://a', headers: {a: 1}",
    ".headers.a: a text is expected, not the number 1: put it in quotes"
)]
#[case::request_of_tcp(
    "target_url: 'tcp://a:1', expect_body: x",
    ".expect_body: has a meaning with http://, https:// and http+unix:// only"
)]
#[case::tls_of_http("target_url: 'http://a', tls: {}", ".tls: has a meaning with https:// only")]
#[case::tls_of_tcp("target_url: 'tcp://a:1', tls: {}", ".tls: has a meaning with https:// only")]
#[case::ca_file(
    "target_url: 'https://a', tls: {ca_file: ca.pem}",
    ".tls.ca_file: must be an absolute path, \"ca.pem\" is not"
)]
#[case::server_name(
    "target_url: 'https://a', tls: {server_name: 'a b'}",
    ".tls.server_name: is neither a host's name nor an IP address"
)]
#[case::insecure(
    "target_url: 'https://a', tls: {insecure: true, ca_file: /a}",
    ".tls.insecure: `insecure: true` and ca_file exclude each other: remove one"
)]
#[case::tls_key(
    "target_url: 'https://a', tls: {ca-file: /a}",
    ".tls.ca-file: unknown key \"ca-file\", did you mean \"ca_file\"?"
)]
#[case::unknown("target_url: 'http://a', timeout: 1", ".timeout: unknown key \"timeout\"")]
fn a_probe_is_refused(#[case] keys: &str, #[case] fault: &str) {
    assert_eq!(said(&entry(keys)), [format!("processes[0].monitor{fault}")]);
}

#[test]
fn a_wrong_url_hides_no_other_fault() {
    let text = entry("target_url: 'a', expect_status: 1, tls: {x: 1}");
    let paths: Vec<_> =
        faults(&text).iter().map(|fault| fault.split(" (").next().unwrap().to_owned()).collect();
    let monitor = "processes[0].monitor";
    assert_eq!(
        paths,
        [
            format!("{monitor}.target_url"),
            format!("{monitor}.expect_status"),
            format!("{monitor}.tls.x")
        ]
    );
}

#[rstest]
#[case::number("200", &[200], &[199, 201])]
#[case::range("'200-399'", &[200, 301, 399], &[199, 400])]
#[case::list("[200, '500-599', '404']", &[200, 404, 500, 599], &[201, 403, 499])]
fn a_status_is_expected(#[case] written: &str, #[case] yes: &[u16], #[case] no: &[u16]) {
    let probe = probe(&format!("target_url: 'http://a', expect_status: {written}"));
    let statuses = &probe.request.as_ref().unwrap().expect_status;
    assert!(yes.iter().all(|status| statuses.contain(*status)), "{statuses:?}");
    assert!(!no.iter().any(|status| statuses.contain(*status)), "{statuses:?}");
}

#[test]
fn insecure_is_said_loudly() {
    let text = entry("target_url: 'https://a', tls: {insecure: true, server_name: b}");
    let Checked { config, warnings } = checked(&text, &ROOT);
    assert!(config.processes[0].probe().unwrap().is_insecure());
    assert_eq!(
        warnings,
        [
            "a: with tls.insecure: true nobody's certificate is checked, so that whoever answers the probe is believed; ca_file is the way to trust one's own certificate"
        ]
    );
    let disabled = text.replace("name: a", "name: a, enabled: false");
    assert_eq!(checked(&disabled, &ROOT).warnings, [""; 0]);
}

#[rstest]
#[case::one("{type: network, target_url: 'tcp://a:1'}")]
#[case::list("[{type: network, target_url: 'tcp://a:1'}]")]
fn what_has_no_command_is_only_watched(#[case] monitor: &str) {
    for reader in [ROOT, USER, USER_FILE_ONLY] {
        let Checked { config, warnings } =
            checked(&only(&format!("name: a, monitor: {monitor}")), &reader);
        assert!(config.processes[0].is_watch_only());
        assert_eq!(warnings, [""; 0]);
    }
}

#[rstest]
#[case::pid("{type: pid, pid_file_path: /a}")]
#[case::both("[{type: network, target_url: 'tcp://a:1'}, {type: ebpf}]")]
#[case::unknown("[{type: network, target_url: 'tcp://a:1'}, {type: e}]")]
fn only_a_probe_does_without_a_command(#[case] monitor: &str) {
    let said = said(&only(&format!("name: a, run_as_root: true, monitor: {monitor}")));
    let missing = "processes[0]: the key `command` is missing (only what is watched by `type: network` alone needs none)";
    assert!(said.iter().any(|fault| fault == missing), "{said:?}");
}

#[test]
fn what_is_only_watched_has_no_keys_of_a_start() {
    let said = said(&only(
        "name: a, monitor: {type: network, target_url: 'tcp://a:1'}, args: [b], run_as_user: c, \
         autostart: true, stop: {}, recovery: {retries: 1}, dependencies: []",
    ));
    let keys = ["args", "run_as_user", "autostart", "stop", "recovery", "dependencies"];
    let meaning = "has no meaning without `command`: such an entry is only watched";
    assert_eq!(said, keys.map(|key| format!("processes[0].{key}: {meaning}")));
}

#[test]
fn two_entries_may_watch_the_same() {
    let text = "processes:\n\
        - { name: a, monitor: {type: network, target_url: 'tcp://a:1'} }\n\
        - { name: b, monitor: {type: network, target_url: 'tcp://a:1'} }\n";
    assert_eq!(faults(text), [""; 0]);
}
