//! The connections of the control socket: how many, how long, how large.
//!
//! Whoever may use the socket is trusted with what it offers, not with healer's time and memory:
//! one connection is one request, there are so many at a time, and each has bounds. Further ones
//! wait, in the kernel. The task is recovery's neighbour in one thread, so what takes long is done
//! elsewhere. Started and stopped by `daemon`; what is answered is `routes`'s.

use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::{debug, error, info, warn};

use crate::bus::Bus;
use crate::recovery;

use super::history::History;
use super::report::{Facts, ReloadAsked};
use super::routes::{Routes, Session};
use super::socket::{Bound, Peer, Place};
use super::{GROUP, SOCKET};

/// Connections at one time.
const CONNECTIONS: usize = 64;
/// How long a request's head may take.
const HEAD_PATIENCE: Duration = Duration::from_secs(5);
/// How long a connection may take, but for what is long by its nature.
const PATIENCE: Duration = Duration::from_secs(30);
/// The largest head, and the most that is written ahead of a slow reader.
const BUFFER: usize = 16 << 10;
/// The most lines of a head.
const HEADERS: usize = 64;
/// How soon to try again where no connection can be accepted.
const ACCEPT_AGAIN: Duration = Duration::from_millis(500);
/// Reloads that may wait to be heard of.
const RELOADS: usize = 4;

/// What the daemon tells the server and hears of it.
#[derive(Debug)]
pub struct Handle {
    orders: mpsc::Sender<Look>,
    /// `None` once its end was told.
    task: Option<JoinHandle<()>>,
    reloads: mpsc::Receiver<ReloadAsked>,
}

/// Look whether the socket is still in its place.
#[derive(Debug)]
struct Look;

impl Handle {
    /// Serves `bound`; without one, tries again to have it in this directory whenever it looks.
    pub fn spawn(
        directory: PathBuf,
        bound: Option<Bound>,
        recovery: recovery::Handle,
        bus: &Bus,
        facts: watch::Receiver<Arc<Facts>>,
    ) -> Self {
        let (orders, ordered) = mpsc::channel(1);
        let (reload, reloads) = mpsc::channel(RELOADS);
        let (history, record) = History::new(bus.subscribe());
        let routes = Routes::new(recovery, history, facts, reload);
        let server = Server {
            directory,
            open: bound.and_then(Open::of),
            routes: Arc::new(routes),
            slots: Arc::new(Semaphore::new(CONNECTIONS)),
            connections: JoinSet::new(),
        };
        let task = tokio::spawn(async move {
            tokio::select! {
                () = server.run(ordered) => {}
                // It ends with the last who can ask it, and those are in the other one.
                () = record => {}
            }
        });
        Self { orders, task: Some(task), reloads }
    }

    /// Looks whether the socket is still in its place, and puts it there if it is not. To be called
    /// only while the lock is held.
    pub fn look(&self) {
        // A look that is still to be done is this one.
        let _ = self.orders.try_send(Look);
    }

    /// Waits for somebody to ask for a reload. If the task ends, which it should not, that is told,
    /// and nobody will ask. Cancel-safe.
    pub async fn reload_asked(&mut self) -> ReloadAsked {
        while let Some(task) = &mut self.task {
            tokio::select! {
                Some(asked) = self.reloads.recv() => return asked,
                ended = task => {
                    let reason = ended.err();
                    error!(?reason, "the control socket has failed; processes are guarded on");
                    self.task = None;
                }
            }
        }
        std::future::pending().await
    }

    /// Takes the socket away and ends all connections.
    pub async fn stop(self) {
        if let Some(task) = self.task {
            task.abort();
            // It was cancelled, or its failure comes too late to matter.
            let _ = task.await;
        }
    }
}

/// A socket that accepts connections.
#[derive(Debug)]
struct Open {
    listener: UnixListener,
    place: Arc<Place>,
}

impl Open {
    fn of(bound: Bound) -> Option<Self> {
        let Bound { listener, place } = bound;
        if let Some(reason) = &place.withheld {
            warn!(group = GROUP, %reason, "the control socket is for its owner alone");
        }
        match UnixListener::from_std(listener) {
            Ok(listener) => Some(Self { listener, place: place.into() }),
            Err(error) => {
                error!(%error, "cannot watch the control socket");
                None
            }
        }
    }
}

struct Server {
    directory: PathBuf,
    open: Option<Open>,
    routes: Arc<Routes>,
    slots: Arc<Semaphore>,
    connections: JoinSet<()>,
}

impl Server {
    async fn run(mut self, mut ordered: mpsc::Receiver<Look>) {
        loop {
            tokio::select! {
                look = ordered.recv() => match look {
                    Some(Look) => self.look(),
                    None => return,
                },
                Some(ended) = self.connections.join_next() => {
                    if let Err(error) = ended {
                        error!(%error, "a connection of the control socket has failed");
                    }
                }
                accepted = accept(self.open.as_ref(), &self.slots) => match accepted {
                    Ok((stream, slot, place)) => self.serve(stream, slot, &place),
                    Err(error) => {
                        debug!(%error, "cannot accept a connection");
                        sleep(ACCEPT_AGAIN).await;
                    }
                },
            }
        }
    }

    fn look(&mut self) {
        if self.open.as_ref().is_some_and(|open| open.place.holds()) {
            return;
        }
        match Bound::in_directory(&self.directory) {
            Ok(bound) => {
                self.open = Open::of(bound);
                let path = self.directory.join(SOCKET);
                info!(path = %path.display(), "the control socket is put in its place again");
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                error!(%error, cause, "there is no control socket; processes are guarded on");
            }
        }
    }

    fn serve(&mut self, stream: UnixStream, slot: OwnedSemaphorePermit, place: &Place) {
        let peer = match Peer::of(&stream) {
            Ok(peer) => peer,
            Err(error) => {
                debug!(%error, "cannot tell who is at the other end");
                return;
            }
        };
        let admitted = place.admits(&peer);
        let routes = Arc::clone(&self.routes);
        self.connections.spawn(async move {
            connection(stream, routes, peer, admitted).await;
            drop(slot);
        });
    }
}

/// The next connection, as soon as there is room for it.
async fn accept(
    open: Option<&Open>,
    slots: &Arc<Semaphore>,
) -> io::Result<(UnixStream, OwnedSemaphorePermit, Arc<Place>)> {
    let Some(open) = open else { return std::future::pending().await };
    let slot = Arc::clone(slots).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = open.listener.accept().await?;
    Ok((stream, slot, Arc::clone(&open.place)))
}

/// One request and its answer.
async fn connection(stream: UnixStream, routes: Arc<Routes>, peer: Peer, admitted: bool) {
    let session = Arc::new(Session::new(peer, admitted));
    let service = service_fn(|request| {
        let (routes, session) = (Arc::clone(&routes), Arc::clone(&session));
        async move { Ok::<_, Infallible>(routes.answer(request, &session).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .keep_alive(false)
        .max_buf_size(BUFFER)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        served = connection => {
            if let Err(error) = served {
                debug!(%error, "a connection was broken off");
            }
        }
        () = overdue(&session) => debug!("a connection that took too long is closed"),
    }
}

/// Waits until the connection has taken longer than it may.
async fn overdue(session: &Session) {
    if timeout(PATIENCE, session.takes_long()).await.is_ok() {
        session.is_over().await;
        sleep(PATIENCE).await;
    }
}
