//! Small servers. Each lives as long as the test's runtime.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// A server that does this with each connection.
pub async fn server<F, D>(serve: F) -> SocketAddr
where
    F: Fn(TcpStream) -> D + Send + 'static,
    D: Future<Output = ()> + Send + 'static,
{
    server_at((Ipv4Addr::LOCALHOST, 0).into(), serve).await
}

pub async fn server_at<F, D>(address: SocketAddr, serve: F) -> SocketAddr
where
    F: Fn(TcpStream) -> D + Send + 'static,
    D: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// The same on a Unix socket; the directory has to be kept.
pub fn unix_server<F, D>(serve: F) -> (TempDir, PathBuf)
where
    F: Fn(UnixStream) -> D + Send + 'static,
    D: Future<Output = ()> + Send + 'static,
{
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("it.sock");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    (directory, path)
}

/// A server that gives every request this answer, and then closes.
pub async fn answering(answer: impl Into<Vec<u8>>) -> SocketAddr {
    let answer = answer.into();
    server(move |stream| give(stream, answer.clone())).await
}

/// Reads a request, answers it, and closes.
pub async fn give(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: Vec<u8>) {
    request(&mut stream).await;
    let _ = stream.write_all(&answer).await;
    let _ = stream.shutdown().await;
}

/// Reads a request to the end of its head.
pub async fn request(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => read.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(read).unwrap()
}

/// An answer with this status line and body.
pub fn response(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}
