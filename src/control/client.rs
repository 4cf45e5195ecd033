//! Asks the daemon: one request, one answer, or line by line.
//!
//! Blocking, for commands that do nothing else. What the documents mean is `protocol`'s, how they
//! are shown `table`'s. Called by `operator`.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::HOST;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::protocol::Refusal;
use super::socket::connect;

/// How long a daemon that is not stuck may take to answer.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// No line of events is as long.
const LONGEST_LINE: usize = 1 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "healer does not run, or has another pid_file_directory: nobody answers at {} \
         (to start it: healer; to say where: --socket PATH, or -c FILE)", path.display()
    )]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file system refuses.
    #[error(
        "permission denied: {} is for root, the user whom healer runs as, and members of group \
         {}, if there is one", path.display(), super::GROUP
    )]
    Denied {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The connection broke.
    #[error("cannot speak with healer over {}", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What happened.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The daemon does not do what it is asked.
    #[error("{why}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Why, in the daemon's words.
        why: String,
    },
}

/// Speaks with the daemon at one socket.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    runtime: Runtime,
}

/// An answer that is a document, of success or not.
#[derive(Debug)]
pub struct Answered {
    /// The HTTP status.
    pub status: u16,
    /// The document.
    pub body: Bytes,
}

impl Client {
    /// For the socket at this path.
    ///
    /// # Errors
    ///
    /// The system has no descriptor left.
    pub fn new(path: &Path) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { path: path.to_path_buf(), runtime })
    }

    /// The document at a path, with the answer's own text.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<(T, Bytes), ClientError> {
        self.read(&self.ask("GET", path, String::new(), PATIENCE)?)
    }

    /// Asks for something, and reads the document that answers it. `accepted`: a status beside
    /// success that has such a document.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: String,
        patience: Duration,
        accepted: u16,
    ) -> Result<(T, Bytes), ClientError> {
        let answered = self.ask("POST", path, body, patience)?;
        let status = if answered.status == accepted { 200 } else { answered.status };
        self.read(&Answered { status, ..answered })
    }

    /// Passes on each line of an endless answer, until there are no more or it is not taken.
    ///
    /// # Errors
    ///
    /// [`ClientError`], or what `take` reports.
    pub fn lines<E: From<ClientError>>(
        &self,
        path: &str,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.runtime.block_on(async {
            let begun = timeout(PATIENCE, self.begin("GET", path, String::new())).await;
            let (response, _sender) = begun.unwrap_or_else(|late| Err(self.broken(late)))?;
            let status = response.status().as_u16();
            let mut body = response.into_body();
            if status != 200 {
                let body = body.collect().await.map_err(|error| self.broken(error))?.to_bytes();
                return Err(refusal(&Answered { status, body }).into());
            }
            let mut rest = Vec::new();
            while let Some(frame) = body.frame().await {
                let Ok(data) = frame.map_err(|error| self.broken(error))?.into_data() else {
                    continue;
                };
                rest.extend_from_slice(&data);
                let mut taken = 0;
                while let Some(length) = rest[taken..].iter().position(|byte| *byte == b'\n') {
                    take(&rest[taken..taken + length])?;
                    taken += length + 1;
                }
                rest.drain(..taken);
                if rest.len() > LONGEST_LINE {
                    return Err(self.broken("a line without an end").into());
                }
            }
            Ok(())
        })
    }

    fn read<T: DeserializeOwned>(&self, answered: &Answered) -> Result<(T, Bytes), ClientError> {
        if answered.status != 200 {
            return Err(refusal(answered));
        }
        let document =
            serde_json::from_slice(&answered.body).map_err(|error| self.broken(error))?;
        Ok((document, answered.body.clone()))
    }

    fn ask(
        &self,
        method: &str,
        path: &str,
        body: String,
        patience: Duration,
    ) -> Result<Answered, ClientError> {
        let asked = async {
            let (response, _sender) = self.begin(method, path, body).await?;
            let status = response.status().as_u16();
            let body = response.collect().await.map_err(|error| self.broken(error))?.to_bytes();
            Ok(Answered { status, body })
        };
        self.runtime.block_on(async {
            timeout(patience, asked).await.unwrap_or_else(|late| Err(self.broken(late)))
        })
    }

    /// The answer's head. The sender is to be kept as long as the body is read.
    async fn begin(
        &self,
        method: &str,
        path: &str,
        body: String,
    ) -> Result<(Response<Incoming>, SendRequest<Full<Bytes>>), ClientError> {
        let stream = connect(&self.path).map_err(|error| self.unreached(error))?;
        stream.set_nonblocking(true).map_err(|error| self.broken(error))?;
        let stream = UnixStream::from_std(stream).map_err(|error| self.broken(error))?;
        let (mut sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(error))?;
        // Its failure is told by the answer that does not come.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "healer")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| self.broken(error))?;
        let response = sender.send_request(request).await.map_err(|error| self.broken(error))?;
        Ok((response, sender))
    }

    fn unreached(&self, source: io::Error) -> ClientError {
        let path = self.path.clone();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning { path, source }
            }
            io::ErrorKind::PermissionDenied => ClientError::Denied { path, source },
            _ => self.broken(source),
        }
    }

    fn broken(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClientError {
        ClientError::Broken { path: self.path.clone(), source: source.into() }
    }
}

fn refusal(answered: &Answered) -> ClientError {
    let status = answered.status;
    let why = serde_json::from_slice(&answered.body).map_or_else(
        |_| format!("healer answered {status}, and did not say why"),
        |Refusal { error }| error,
    );
    ClientError::Refused { status, why }
}
