//! Connections that come about, and those that do not.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use healer::monitor::network::health::Outcome;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio::time::{sleep, timeout};

use super::server::{answering, give, request, response, server, server_at, unix_server};
use super::{failed, outcome};

/// An address where nobody listens.
async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    listener.local_addr().unwrap()
}

#[tokio::test]
async fn a_port_where_somebody_listens_passes() {
    let address = server(|_| sleep(Duration::from_secs(3600))).await;
    assert_eq!(outcome(&format!("target_url: 'tcp://{address}'")).await, Outcome::Passed);
}

#[tokio::test]
async fn a_connection_may_be_refused() {
    let address = nobody().await;
    let refused = failed("connection refused");
    assert_eq!(outcome(&format!("target_url: 'tcp://{address}'")).await, refused);
    assert_eq!(outcome(&format!("target_url: 'http://{address}/'")).await, refused);
}

#[tokio::test]
async fn a_connection_may_be_reset() {
    let address = server(|mut stream: TcpStream| async move {
        request(&mut stream).await;
        stream.set_zero_linger().unwrap();
    })
    .await;
    let outcome = outcome(&format!("target_url: 'http://{address}/'")).await;
    assert_eq!(outcome, failed("connection reset by peer"));
}

#[tokio::test]
async fn a_connection_may_be_closed_too_early() {
    let reason = "the connection was closed before the response was complete";
    let at_once = answering("").await;
    assert_eq!(outcome(&format!("target_url: 'http://{at_once}/'")).await, failed(reason));
    let in_the_head = answering("HTTP/1.1 200 OK\r\nX: y").await;
    assert_eq!(outcome(&format!("target_url: 'http://{in_the_head}/'")).await, failed(reason));
    let in_the_body = answering("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nwe").await;
    let keys = format!("target_url: 'http://{in_the_body}/', expect_body: well");
    assert_eq!(outcome(&keys).await, failed(reason));
}

#[tokio::test]
async fn a_server_whose_queue_is_full_runs_out_of_time() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        queued.push(stream.unwrap());
    }
    let keys = format!("target_url: 'tcp://{address}', timeout_secs: 0.3");
    assert_eq!(outcome(&keys).await, failed("timed out after 0.3 s while connecting"));
}

#[tokio::test]
async fn a_unix_socket_whose_queue_is_full_fails_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("it.sock");
    let listener = UnixListener::bind(&path).unwrap();
    rustix::net::listen(listener.as_fd(), 1).unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = UnixStream::connect(&path).await {
        queued.push(stream);
    }
    let outcome = outcome(&format!("target_url: 'unix://{}'", path.display())).await;
    assert_eq!(outcome, failed("the socket's queue is full"));
}

#[tokio::test]
async fn a_unix_socket_passes() {
    let (_directory, path) = unix_server(|_| sleep(Duration::from_secs(3600)));
    let keys = format!("target_url: 'unix://{}'", path.display());
    assert_eq!(outcome(&keys).await, Outcome::Passed);
}

#[tokio::test]
async fn a_unix_socket_may_be_missing_or_deserted() {
    let (directory, path) = unix_server(|_| sleep(Duration::from_secs(3600)));
    let missing = directory.path().join("other.sock");
    let keys = format!("target_url: 'unix://{}'", missing.display());
    assert_eq!(outcome(&keys).await, failed("the socket does not exist"));
    let deserted = directory.path().join("deserted.sock");
    drop(UnixListener::bind(&deserted).unwrap());
    let keys = format!("target_url: 'unix://{}'", deserted.display());
    assert_eq!(outcome(&keys).await, failed("connection refused"));
    drop(path);
}

#[tokio::test]
async fn what_healer_may_not_ask_says_nothing_of_the_process() {
    if rustix::process::geteuid().is_root() {
        eprintln!("skipped: root may ask whom it likes; the others are in `limit`'s own table");
        return;
    }
    let (_directory, path) = unix_server(|_| sleep(Duration::from_secs(3600)));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o0)).unwrap();
    let keys = format!("target_url: 'unix://{}'", path.display());
    let reason = "cannot connect: permission denied".to_owned();
    assert_eq!(outcome(&keys).await, Outcome::Impossible(reason));
}

#[tokio::test]
async fn http_over_a_unix_socket_is_judged() {
    let (_directory, path) = unix_server(|stream| give(stream, response("200 OK", "well").into()));
    let url = format!("http+unix://{}:/health", path.display());
    let keys = format!("target_url: '{url}', expect_body: well");
    assert_eq!(outcome(&keys).await, Outcome::Passed);
    let keys = format!("target_url: '{url}', expect_body: ill");
    assert_eq!(outcome(&keys).await, failed("the body does not contain \"ill\""));
}

#[tokio::test]
async fn http_over_a_unix_socket_asks_for_its_path() {
    let (_directory, path) = unix_server(|mut stream| async move {
        let request = request(&mut stream).await;
        let _ = stream.write_all(response("200 OK", &request).as_bytes()).await;
    });
    let url = format!("http+unix://{}:/a:b?c", path.display());
    let keys = format!("target_url: '{url}', expect_body: 'GET /a:b?c HTTP/1.1'");
    assert_eq!(outcome(&keys).await, Outcome::Passed);
}

#[tokio::test]
async fn ipv6_is_as_good() {
    let address = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    if TcpListener::bind(address).await.is_err() {
        eprintln!("skipped: this machine has no IPv6");
        return;
    }
    let answer = response("200 OK", "");
    let address = server_at(address, move |stream| give(stream, answer.clone().into())).await;
    assert_eq!(outcome(&format!("target_url: 'http://{address}/'")).await, Outcome::Passed);
}

#[tokio::test]
async fn localhost_is_reached_by_whichever_address_listens() {
    let address = answering(response("200 OK", "")).await;
    let keys = format!("target_url: 'http://localhost:{}/'", address.port());
    assert_eq!(outcome(&keys).await, Outcome::Passed);
}
