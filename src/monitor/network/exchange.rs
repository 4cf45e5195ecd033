//! One HTTP/1.1 request on a probe's connection, and whether the answer is the expected one.
//!
//! hyper reads and writes the messages. What a server sends is read within bounds, and its body only
//! where something is expected of it. Redirects are answers like any other.

use std::error::Error as _;
use std::io;
use std::pin::pin;

use http::Uri;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::Builder;
use hyper_util::rt::TokioIo;

use crate::config::fault::quoted;
use crate::config::probe::Request;

use super::connect::Stream;
use super::limit::{Fault, Limit, said};

/// So much of a head, and of a body, is read.
const LARGEST_HEAD: usize = 64 << 10;
const LARGEST_BODY: usize = 64 << 10;
const HEADERS_MAX: usize = 100;

/// Sends the request and judges the answer.
pub async fn exchange(
    stream: Box<dyn Stream>,
    request: &Request,
    limit: &Limit,
) -> Result<(), Fault> {
    let (mut sender, connection) = Builder::new()
        .max_buf_size(LARGEST_HEAD)
        .max_headers(HEADERS_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| fault(&error))?;
    let mut message = http::Request::new(Empty::<Bytes>::new());
    *message.method_mut() = request.method.clone();
    *message.uri_mut() = Uri::from(request.path.clone());
    *message.headers_mut() = request.headers.clone();
    let mut answered = pin!(async {
        let sending = sender.send_request(message);
        let answer = limit.within("waiting for the response", sending).await?;
        let answer = answer.map_err(|error| fault(&error))?;
        let status = answer.status().as_u16();
        if !request.expect_status.contain(status) {
            return Err(Fault::Target(format!("HTTP status {status}")));
        }
        match &request.expect_body {
            Some(text) => contains(answer.into_body(), text, limit).await,
            None => Ok(()),
        }
    });
    tokio::select! {
        biased;
        outcome = &mut answered => outcome,
        // What it has read is still to be judged; an error of its own is told to whoever waits.
        _ = connection => answered.await,
    }
}

/// Reads as much of the body as it takes to find `text`.
async fn contains(mut body: Incoming, text: &str, limit: &Limit) -> Result<(), Fault> {
    let (shown, text) = (quoted(text), text.as_bytes());
    let mut read = Vec::new();
    while read.len() < LARGEST_BODY {
        let frame = limit.within("reading the body", body.frame()).await?;
        let Some(frame) = frame else {
            return Err(Fault::Target(format!("the body does not contain {shown}")));
        };
        let Ok(data) = frame.map_err(|error| fault(&error))?.into_data() else { continue };
        // What was searched may end with a part of it.
        let from = (read.len() + 1).saturating_sub(text.len());
        read.extend_from_slice(&data[..data.len().min(LARGEST_BODY - read.len())]);
        if read[from..].windows(text.len()).any(|window| window == text) {
            return Ok(());
        }
    }
    let kib = LARGEST_BODY >> 10;
    Err(Fault::Target(format!("the first {kib} KiB of the body do not contain {shown}")))
}

fn fault(error: &hyper::Error) -> Fault {
    let by_system = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    let is_short = by_system.is_some_and(|cause| cause.kind() == io::ErrorKind::UnexpectedEof);
    Fault::Target(if error.is_parse() {
        format!("the response is not understood: {error}")
    } else if error.is_incomplete_message() || is_short {
        "the connection was closed before the response was complete".to_owned()
    } else if let Some(cause) = by_system {
        said(cause)
    } else {
        error.to_string()
    })
}
