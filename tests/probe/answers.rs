//! What servers answer, or do not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use healer::monitor::network::health::Outcome;
use rstest::rstest;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::server::{answering, request, response, server};
use super::{failed, outcome};

/// A head that promises a body of so many bytes.
fn head(length: usize) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")
}

#[rstest]
#[case::ok("200 OK", "", None)]
#[case::no_content("204 No Content", "", None)]
#[case::redirect("302 Found", "", None)]
#[case::missing("404 Not Found", "", Some("HTTP status 404"))]
#[case::broken("500 Internal Server Error", "", Some("HTTP status 500"))]
#[case::not_the_one("204 No Content", "expect_status: 200", Some("HTTP status 204"))]
#[case::not_redirected("302 Found", "expect_status: '200-299'", Some("HTTP status 302"))]
#[case::broken_as_expected("503 Service Unavailable", "expect_status: [200, 503]", None)]
#[tokio::test]
async fn a_status_is_judged(
    #[case] status: &str,
    #[case] keys: &str,
    #[case] reason: Option<&str>,
) {
    let address = answering(response(status, "")).await;
    let outcome = outcome(&format!("target_url: 'http://{address}/', {keys}")).await;
    assert_eq!(outcome, reason.map_or(Outcome::Passed, failed));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let address = server(move |mut stream| {
        count.fetch_add(1, Ordering::Relaxed);
        async move {
            request(&mut stream).await;
            let here = "HTTP/1.1 301 Moved\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n";
            let _ = stream.write_all(here.as_bytes()).await;
        }
    })
    .await;
    assert_eq!(outcome(&format!("target_url: 'http://{address}/'")).await, Outcome::Passed);
    assert_eq!(connections.load(Ordering::Relaxed), 1);
}

#[rstest]
#[case::at_its_end("all is well", None)]
#[case::wrong("all is lost", Some("the body does not contain \"well\""))]
#[case::empty("", Some("the body does not contain \"well\""))]
#[tokio::test]
async fn a_body_is_searched(#[case] body: &str, #[case] reason: Option<&str>) {
    let address = answering(response("200 OK", body)).await;
    let outcome = outcome(&format!("target_url: 'http://{address}/', expect_body: well")).await;
    assert_eq!(outcome, reason.map_or(Outcome::Passed, failed));
}

#[tokio::test]
async fn a_text_that_comes_in_pieces_is_found() {
    let address = server(|mut stream| async move {
        request(&mut stream).await;
        let _ = stream.write_all(head(6).as_bytes()).await;
        for piece in ["a", "w", "e", "l", "l", "z"] {
            sleep(Duration::from_millis(20)).await;
            let _ = stream.write_all(piece.as_bytes()).await;
            let _ = stream.flush().await;
        }
    })
    .await;
    let keys = format!("target_url: 'http://{address}/', expect_body: well");
    assert_eq!(outcome(&keys).await, Outcome::Passed);
}

#[rstest]
#[case::until_it_closes("HTTP/1.0 200 OK\r\n\r\nall is well")]
#[case::in_chunks(
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na w\r\n3\r\nell\r\n0\r\n\r\n"
)]
#[case::after_a_hint("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\nwell")]
#[case::to_whoever_waits_no_longer("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nwell")]
#[tokio::test]
async fn a_body_is_read_however_it_is_sent(#[case] answer: &str) {
    let address = answering(answer).await;
    let keys = format!("target_url: 'http://{address}/', expect_body: well");
    assert_eq!(outcome(&keys).await, Outcome::Passed);
}

#[tokio::test]
async fn a_body_that_nothing_is_expected_of_is_not_waited_for() {
    let address = server(|mut stream| async move {
        request(&mut stream).await;
        let _ = stream.write_all(head(10).as_bytes()).await;
        sleep(Duration::from_secs(3600)).await;
    })
    .await;
    assert_eq!(outcome(&format!("target_url: 'http://{address}/'")).await, Outcome::Passed);
}

#[tokio::test]
async fn the_answer_to_head_has_no_body() {
    let address = answering(head(1000)).await;
    let keys = format!("target_url: 'http://{address}/', method: HEAD");
    assert_eq!(outcome(&keys).await, Outcome::Passed);
}

#[tokio::test]
async fn an_endless_body_is_read_to_a_bound() {
    let address = server(|mut stream| async move {
        request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
    })
    .await;
    let keys = format!("target_url: 'http://{address}/', expect_body: well, timeout_secs: 60");
    let reason = "the first 64 KiB of the body do not contain \"well\"";
    assert_eq!(outcome(&keys).await, failed(reason));
}

#[rstest]
#[case::before_the_bound((64 << 10) - 4, None)]
#[case::across_the_bound((64 << 10) - 3, Some("the first 64 KiB of the body do not contain \"well\""))]
#[tokio::test]
async fn a_text_is_found_up_to_the_bound(#[case] before: usize, #[case] reason: Option<&str>) {
    let body = "x".repeat(before) + "well" + &"x".repeat(100_000);
    let address = answering(response("200 OK", &body)).await;
    let outcome = outcome(&format!("target_url: 'http://{address}/', expect_body: well")).await;
    assert_eq!(outcome, reason.map_or(Outcome::Passed, failed));
}

#[tokio::test]
async fn endless_headers_are_read_to_a_bound() {
    let address = server(|mut stream| async move {
        request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nX: ").await;
        while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
    })
    .await;
    let keys = format!("target_url: 'http://{address}/', timeout_secs: 60");
    let reason = "the response is not understood: message head is too large";
    assert_eq!(outcome(&keys).await, failed(reason));
}

#[tokio::test]
async fn too_many_headers_are_refused() {
    let headers = "X: y\r\n".repeat(101);
    let address = answering(format!("HTTP/1.1 200 OK\r\n{headers}\r\n")).await;
    let reason = "the response is not understood: message head is too large";
    assert_eq!(outcome(&format!("target_url: 'http://{address}/'")).await, failed(reason));
}

#[rstest]
#[case::another_protocol("SSH-2.0-OpenSSH_9.2\r\n\r\n")]
#[case::old_http("all is well\r\n\r\n")]
#[case::bytes("\u{0}\u{1}\u{2}\r\n\r\n")]
#[case::wrong_status("HTTP/1.1 2000 OK\r\n\r\n")]
#[tokio::test]
async fn what_is_no_response_is_a_failure(#[case] answer: &str) {
    let address = answering(answer).await;
    let outcome = outcome(&format!("target_url: 'http://{address}/'")).await;
    let Outcome::Failed(reason) = outcome else { panic!("{outcome:?}") };
    assert!(reason.starts_with("the response is not understood: "), "{reason}");
}

#[tokio::test]
async fn a_server_that_never_answers_runs_out_of_time() {
    let address = server(|stream| async move {
        sleep(Duration::from_secs(3600)).await;
        drop(stream);
    })
    .await;
    let keys = format!("target_url: 'http://{address}/', timeout_secs: 0.3");
    let reason = "timed out after 0.3 s while waiting for the response";
    assert_eq!(outcome(&keys).await, failed(reason));
}

/// Each byte comes in time, but the answer never does.
#[tokio::test]
async fn a_slow_head_runs_out_of_time() {
    let address = server(|mut stream| async move {
        request(&mut stream).await;
        for byte in head(0).into_bytes().into_iter().cycle() {
            sleep(Duration::from_millis(50)).await;
            if stream.write_all(&[byte]).await.is_err() {
                break;
            }
        }
    })
    .await;
    let keys = format!("target_url: 'http://{address}/', timeout_secs: 0.5");
    let reason = "timed out after 0.5 s while waiting for the response";
    assert_eq!(outcome(&keys).await, failed(reason));
}

#[tokio::test]
async fn a_slow_body_runs_out_of_time() {
    let address = server(|mut stream| async move {
        request(&mut stream).await;
        let _ = stream.write_all(head(1000).as_bytes()).await;
        while stream.write_all(b"x").await.is_ok() {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let keys = format!("target_url: 'http://{address}/', expect_body: well, timeout_secs: 1");
    let reason = "timed out after 1 s while reading the body";
    assert_eq!(outcome(&keys).await, failed(reason));
}

#[rstest]
#[case::get("", "GET /a/b%20c?d=e HTTP/1.1", &[])]
#[case::head("method: HEAD", "HEAD /a/b%20c?d=e HTTP/1.1", &[])]
#[case::post("method: POST", "POST /a/b%20c?d=e HTTP/1.1", &["content-length: 0"])]
#[case::headers(
    "headers: {X-Token: 'a b', user-agent: curl}",
    "GET /a/b%20c?d=e HTTP/1.1",
    &["x-token: a b", "user-agent: curl"]
)]
#[tokio::test]
async fn what_is_sent(#[case] keys: &str, #[case] line: &str, #[case] headers: &[&str]) {
    let (sent, mut received) = mpsc::unbounded_channel();
    let address = server(move |mut stream| {
        let sent = sent.clone();
        async move {
            let _ = sent.send(request(&mut stream).await);
            let _ = stream.write_all(response("200 OK", "").as_bytes()).await;
        }
    })
    .await;
    let url = format!("http://{address}/a/b%20c?d=e");
    assert_eq!(outcome(&format!("target_url: '{url}', {keys}")).await, Outcome::Passed);
    let request = received.recv().await.unwrap();
    let mut lines: Vec<_> = request.trim_end().lines().collect();
    assert_eq!(lines.remove(0), line);
    let agent = concat!("user-agent: healer/", env!("CARGO_PKG_VERSION"));
    let host = format!("host: {address}");
    let mut expected = vec![host.as_str(), "accept: */*", "connection: close"];
    expected.extend(headers);
    if !headers.iter().any(|header| header.starts_with("user-agent")) {
        expected.push(agent);
    }
    lines.sort_unstable();
    expected.sort_unstable();
    assert_eq!(lines, expected);
}
