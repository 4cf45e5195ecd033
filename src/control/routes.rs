//! What is answered to which request.
//!
//! Reads what recovery, the record of events and the daemon tell, and passes on what is asked of
//! them. Called by `server`, once for each connection.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::info;

use crate::clock::Calendar;
use crate::config::listed;
use crate::event::{self, ProcessName, State};
use crate::recovery::status::ProcessStatus;
use crate::recovery::{self, Gone};

use super::history::{History, Noted, Recorded, Told};
use super::protocol::{Outcome, Pause, REQUESTS, Refusal};
use super::report::{self, Facts, ReloadAsked};
use super::socket::Peer;

/// The most bytes of a request's body.
const LARGEST_BODY: usize = 4 << 10;
/// How long a request's body may take.
const BODY_PATIENCE: Duration = Duration::from_secs(5);
/// Whole statuses under way at one time: of 10,000 processes, each takes some megabytes.
const WHOLE: usize = 4;
/// Who may follow events at one time.
const FOLLOWERS: usize = 16;
/// How long a follower may take to read.
const FOLLOWER_PATIENCE: Duration = Duration::from_secs(30);
/// Events are sent in pieces of at least so many bytes, as far as there are more.
const PIECE: usize = 8 << 10;
/// The longest that the end of a request is waited for.
const LONGEST_WAIT: f64 = 3_600.0;
/// The longest pause with an end: ten years.
const LONGEST_PAUSE: f64 = 315_360_000.0;

/// Whom to ask.
#[derive(Debug)]
pub struct Routes {
    recovery: recovery::Handle,
    history: History,
    facts: watch::Receiver<Arc<Facts>>,
    reload: mpsc::Sender<ReloadAsked>,
    whole: Arc<Semaphore>,
    followers: Arc<Semaphore>,
}

/// One connection: who is at the other end, and what it may take.
#[derive(Debug)]
pub struct Session {
    peer: Peer,
    admitted: bool,
    long: Notify,
    over: Notify,
    /// Held until the answer is read.
    share: Mutex<Option<OwnedSemaphorePermit>>,
}

/// A request that may take long by its nature, until this is dropped.
struct Long(Arc<Session>);

impl Long {
    fn begin(session: &Arc<Session>) -> Self {
        session.long.notify_one();
        Self(Arc::clone(session))
    }
}

impl Drop for Long {
    fn drop(&mut self) {
        self.0.over.notify_one();
    }
}

impl Session {
    /// Of this peer, who may use the socket or not.
    pub fn new(peer: Peer, admitted: bool) -> Self {
        let (long, over) = (Notify::new(), Notify::new());
        Self { peer, admitted, long, over, share: Mutex::new(None) }
    }

    /// Waits until the request turns out to be one that may take long.
    pub async fn takes_long(&self) {
        self.long.notified().await;
    }

    /// Waits until what takes long is over: all that is left is for the peer to read.
    pub async fn is_over(&self) {
        self.over.notified().await;
    }

    /// Holds a share of what is bounded until the connection ends.
    fn hold(&self, share: OwnedSemaphorePermit) {
        *self.share.lock().unwrap_or_else(PoisonError::into_inner) = Some(share);
    }
}

/// The answer's body.
#[derive(Debug)]
pub enum Answer {
    /// All at once.
    Whole(Option<Bytes>),
    /// As it comes.
    Pieces(mpsc::Receiver<Bytes>),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take()),
            Self::Pieces(pieces) => pieces.poll_recv(context),
        };
        next.map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Pieces(_) => SizeHint::default(),
        }
    }
}

/// Why a request is not answered as it wishes.
#[derive(Debug)]
struct Refused {
    status: StatusCode,
    why: String,
    /// The methods that the path has.
    allowed: Option<&'static str>,
}

impl Refused {
    fn new(status: StatusCode, why: impl Into<String>) -> Self {
        Self { status, why: why.into(), allowed: None }
    }
}

impl From<Gone> for Refused {
    fn from(gone: Gone) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, format!("healer is about to end: {gone}"))
    }
}

fn ending() -> Refused {
    Refused::new(StatusCode::SERVICE_UNAVAILABLE, "healer is about to end")
}

type Answered = Result<Response<Answer>, Refused>;

impl Routes {
    /// Asks these.
    pub fn new(
        recovery: recovery::Handle,
        history: History,
        facts: watch::Receiver<Arc<Facts>>,
        reload: mpsc::Sender<ReloadAsked>,
    ) -> Self {
        let whole = Arc::new(Semaphore::new(WHOLE));
        let followers = Arc::new(Semaphore::new(FOLLOWERS));
        Self { recovery, history, facts, reload, whole, followers }
    }

    /// The answer to a request.
    pub async fn answer(
        &self,
        request: Request<Incoming>,
        session: &Arc<Session>,
    ) -> Response<Answer> {
        self.route(request, session).await.unwrap_or_else(|refused| {
            let mut response = json(refused.status, &Refusal { error: refused.why });
            if let Some(methods) = refused.allowed {
                response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
            }
            response
        })
    }

    async fn route(&self, request: Request<Incoming>, session: &Arc<Session>) -> Answered {
        if !session.admitted {
            let why = format!(
                "{} may not use this socket: root, healer's own user and members of group {} may",
                session.peer.name(),
                super::GROUP
            );
            return Err(Refused::new(StatusCode::FORBIDDEN, why));
        }
        let (head, body) = request.into_parts();
        let query = head.uri.query().unwrap_or_default();
        let path: Vec<&str> = head.uri.path().split('/').skip(1).collect();
        match path.as_slice() {
            ["v1", "status"] => {
                only(&head.method, &Method::GET)?;
                members(query, &[])?;
                self.status(session).await
            }
            ["v1", "events"] => {
                only(&head.method, &Method::GET)?;
                let [follow] = members(query, &["follow"])?;
                let follow = match follow {
                    None | Some("0") => false,
                    Some("1") => true,
                    Some(_) => return Err(bad("follow must be 0 or 1")),
                };
                self.events(follow, session).await
            }
            ["v1", "processes", name] => {
                only(&head.method, &Method::GET)?;
                members(query, &[])?;
                self.process(name).await
            }
            ["v1", "processes", name, request] if REQUESTS.contains(request) => {
                only(&head.method, &Method::POST)?;
                let [wait] = members(query, &["wait_secs"])?;
                let wait = wait.map_or(Ok(Duration::ZERO), |text| {
                    let secs = text.parse().unwrap_or(f64::NAN);
                    span("wait_secs", secs, LONGEST_WAIT)
                })?;
                let asked = asked(request, &read(body).await?)?;
                self.ask(name, request, asked, wait, session).await
            }
            ["v1", "reload"] => {
                only(&head.method, &Method::POST)?;
                members(query, &[])?;
                self.reload(session).await
            }
            _ => Err(Refused::new(
                StatusCode::NOT_FOUND,
                format!(
                    "there is no {}; there are /v1/status, /v1/events, /v1/reload, \
                     /v1/processes/NAME and /v1/processes/NAME/REQUEST, which is one of {}",
                    head.uri.path(),
                    REQUESTS.join(", ")
                ),
            )),
        }
    }

    async fn status(&self, session: &Session) -> Answered {
        let share = Arc::clone(&self.whole).acquire_owned().await.map_err(|_| ending())?;
        session.hold(share);
        let all = self.recovery.status().await?;
        let facts = Arc::clone(&self.facts.borrow());
        let calendar = Calendar::now();
        // Of thousands of processes this takes a while, and recovery is in this thread.
        let written = spawn_blocking(move || write(&report::status(&facts, &all, &calendar)));
        let body = written.await.map_err(|error| broken(&error))?;
        Ok(response(StatusCode::OK, JSON, Answer::Whole(Some(body))))
    }

    async fn process(&self, name: &str) -> Answered {
        let facts = Arc::clone(&self.facts.borrow());
        if let Some(status) = self.recovery.status_of(ProcessName::new(name)).await? {
            return Ok(json(StatusCode::OK, &report::one(&facts, &status, &Calendar::now())));
        }
        match facts.config.processes.iter().find(|entry| entry.name.as_str() == name) {
            Some(entry) => Ok(json(StatusCode::OK, &report::unwatched(&entry.name, entry.enabled))),
            None => Err(unknown(name, &facts)),
        }
    }

    async fn events(&self, follow: bool, session: &Arc<Session>) -> Answered {
        if follow {
            let share = Arc::clone(&self.followers).try_acquire_owned().map_err(|_| {
                let why = format!("{FOLLOWERS} follow already, and no more may");
                Refused::new(StatusCode::SERVICE_UNAVAILABLE, why)
            })?;
            session.hold(share);
        }
        let told = self.history.told().await.ok_or_else(ending)?;
        let (pieces, read) = mpsc::channel(1);
        tokio::spawn(feed(told, follow, pieces, Long::begin(session)));
        Ok(response(StatusCode::OK, LINES, Answer::Pieces(read)))
    }

    async fn reload(&self, session: &Arc<Session>) -> Answered {
        let (done, outcome) = oneshot::channel();
        let _long = Long::begin(session);
        let by = session.peer.name();
        self.reload.send(ReloadAsked { by, done }).await.map_err(|_| ending())?;
        let reloaded = outcome.await.map_err(|_| ending())?;
        let taken = reloaded.faults.is_empty();
        let status = if taken { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
        Ok(json(status, &report::reload(&reloaded, &Calendar::now())))
    }

    async fn ask(
        &self,
        name: &str,
        word: &str,
        request: event::Request,
        wait: Duration,
        session: &Arc<Session>,
    ) -> Answered {
        let process = ProcessName::new(name);
        // What follows from it is heard from before it is asked.
        let mut told = self.history.told().await.ok_or_else(ending)?;
        let by = session.peer.name();
        let facts = Arc::clone(&self.facts.borrow());
        let Some(mut status) = self.recovery.ask(process.clone(), request, by.clone()).await?
        else {
            return Err(match facts.config.processes.iter().find(|entry| entry.name == process) {
                Some(_) => Refused::new(
                    StatusCode::CONFLICT,
                    format!("process {name} is disabled: set enabled: true and reload"),
                ),
                None => unknown(name, &facts),
            });
        };
        info!(process = name, request = word, by, "asked for");
        let _long = (!wait.is_zero()).then(|| Long::begin(session));
        let deadline = Instant::now() + wait;
        let done = loop {
            if let Some(done) = outcome(request, &status) {
                break done;
            }
            if timeout_at(deadline, news_of(&process, &mut told)).await.is_err() {
                break false;
            }
            match self.recovery.status_of(process.clone()).await? {
                Some(newer) => status = newer,
                // A reload took it out of the configuration.
                None => break false,
            }
        };
        let process = report::one(&facts, &status, &Calendar::now());
        Ok(json(StatusCode::OK, &Outcome { request: word.to_owned(), done, process }))
    }
}

/// Waits for the next event of a process, or a loss of events.
async fn news_of(process: &ProcessName, told: &mut Told) {
    loop {
        match told.news.recv().await {
            Ok(recorded) if recorded.process.as_ref().is_none_or(|one| one == process) => return,
            Ok(_) => {}
            Err(RecvError::Lagged(_)) => return,
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// Whether what was asked is done, or cannot be now; `None` while it is under way.
fn outcome(request: event::Request, status: &ProcessStatus) -> Option<bool> {
    use event::Request;
    let is_stuck = status.trouble.is_some();
    match (request, &status.state) {
        (Request::Pause { .. } | Request::Reset, _) => Some(true),
        (_, State::Stopping { .. }) => is_stuck.then_some(false),
        (Request::Stop, _) if status.running.is_some() || status.expected => None,
        (Request::Stop, _) => Some(true),
        (_, State::Starting | State::Trial { instance: None }) => None,
        (Request::Resume, _)
        | (Request::Restart, State::Up { .. } | State::Trial { instance: Some(_) }) => Some(true),
        (Request::Restart, State::Unknown { reason }) if reason.is_empty() => None,
        (Request::Restart, _) => Some(false),
    }
}

/// Sends the past and, to followers, what comes, as fast as it is read.
async fn feed(told: Told, follow: bool, pieces: mpsc::Sender<Bytes>, _long: Long) {
    let Told { past, mut news } = told;
    let mut past = past.into_iter();
    let mut piece = Vec::new();
    loop {
        let calendar = Calendar::now();
        while piece.len() < PIECE
            && let Some(recorded) = past.next()
        {
            push(&mut piece, &recorded, &calendar);
        }
        if piece.is_empty() && follow {
            let next = tokio::select! {
                next = news.recv() => next,
                () = pieces.closed() => return,
            };
            match next {
                Ok(recorded) => push(&mut piece, &recorded, &calendar),
                Err(RecvError::Lagged(lost)) => push(&mut piece, &lag(lost), &calendar),
                Err(RecvError::Closed) => return,
            }
        }
        if piece.is_empty() {
            return;
        }
        let sent = pieces.send(Bytes::from(std::mem::take(&mut piece)));
        // Nobody is there any more, or does not read.
        if !matches!(timeout(FOLLOWER_PATIENCE, sent).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// A follower's own loss: what it missed has numbers, so that it can tell which.
fn lag(lost: u64) -> Recorded {
    Recorded { seq: 0, at: crate::clock::now(), process: None, what: Noted::Lagged(lost) }
}

fn push(piece: &mut Vec<u8>, recorded: &Recorded, calendar: &Calendar) {
    piece.extend_from_slice(&write(&report::event(recorded, calendar)));
}

fn only(method: &Method, wanted: &'static Method) -> Result<(), Refused> {
    if method == wanted {
        return Ok(());
    }
    let why = format!("this is for {wanted}, not for {method}");
    let refused = Refused::new(StatusCode::METHOD_NOT_ALLOWED, why);
    let allowed = if *wanted == Method::GET { "GET" } else { "POST" };
    Err(Refused { allowed: Some(allowed), ..refused })
}

/// The values of these members of a query, which may have no others.
fn members<'a, const N: usize>(
    query: &'a str,
    names: &[&str; N],
) -> Result<[Option<&'a str>; N], Refused> {
    let mut values = [None; N];
    for member in query.split('&').filter(|member| !member.is_empty()) {
        let (name, value) = member.split_once('=').unwrap_or((member, ""));
        match names.iter().position(|known| *known == name) {
            Some(at) => values[at] = Some(value),
            None if names.is_empty() => {
                return Err(bad(format!("there is no ?{name}; this takes none")));
            }
            None => return Err(bad(format!("there is no ?{name}, only {}", names.join(", ")))),
        }
    }
    Ok(values)
}

/// The body of a request, within bounds.
async fn read(body: Incoming) -> Result<Bytes, Refused> {
    match timeout(BODY_PATIENCE, Limited::new(body, LARGEST_BODY).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) => {
            let status = StatusCode::PAYLOAD_TOO_LARGE;
            Err(Refused::new(status, format!("at most {LARGEST_BODY} bytes are read: {error}")))
        }
        Err(_) => Err(Refused::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("the body did not come within {} s", BODY_PATIENCE.as_secs()),
        )),
    }
}

fn asked(word: &str, body: &[u8]) -> Result<event::Request, Refused> {
    use event::Request;
    Ok(match word {
        "restart" => Request::Restart,
        "stop" => Request::Stop,
        "resume" => Request::Resume,
        "reset" => Request::Reset,
        _ => {
            let pause = if body.trim_ascii().is_empty() {
                Pause::default()
            } else {
                serde_json::from_slice(body).map_err(|error| bad(error.to_string()))?
            };
            let lasting = pause.for_secs.map(|secs| span("for_secs", secs, LONGEST_PAUSE));
            Request::Pause { lasting: lasting.transpose()? }
        }
    })
}

fn span(name: &str, secs: f64, most: f64) -> Result<Duration, Refused> {
    let in_range = secs > 0.0 && secs <= most;
    Duration::try_from_secs_f64(secs)
        .ok()
        .filter(|_| in_range)
        .ok_or_else(|| bad(format!("{name} must be a number of seconds above 0, up to {most}")))
}

fn bad(why: impl Into<String>) -> Refused {
    Refused::new(StatusCode::BAD_REQUEST, why)
}

fn broken(error: &dyn std::error::Error) -> Refused {
    Refused::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

fn unknown(name: &str, facts: &Facts) -> Refused {
    let names: Vec<_> = facts.config.processes.iter().map(|entry| entry.name.as_str()).collect();
    let there_are =
        listed(&names).map_or("there are none".to_owned(), |few| format!("there are {few}"));
    let why = format!("no process is called \"{name}\"; {there_are}");
    Refused::new(StatusCode::NOT_FOUND, why)
}

const JSON: &str = "application/json";
const LINES: &str = "application/x-ndjson";

fn json(status: StatusCode, document: &impl Serialize) -> Response<Answer> {
    response(status, JSON, Answer::Whole(Some(write(document))))
}

/// A document and the end of its line.
fn write(document: &impl Serialize) -> Bytes {
    let mut bytes = serde_json::to_vec(document).expect("documents hold what JSON has");
    bytes.push(b'\n');
    bytes.into()
}

fn response(status: StatusCode, kind: &'static str, body: Answer) -> Response<Answer> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
