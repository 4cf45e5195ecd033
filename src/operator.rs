//! What an operator's commands do: find the control socket, ask, print, and say by the exit code
//! what came of it.
//!
//! Called by `main`. What the arguments are is `cli`'s, how to ask `control::client`'s, how answers
//! look `control::table`'s.

use std::env;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use hyper::body::Bytes;

use crate::cli::{Command, RequestArguments, SocketArgument};
use crate::config::Reader;
use crate::config::load::{LoadError, socket_directory};
use crate::control::SOCKET;
use crate::control::client::{Client, ClientError, PATIENCE};
use crate::control::protocol::{Line, Outcome, Pause, Process, Reload, Status};
use crate::control::table::{self, Colours};

/// How long the end of a request is waited for: whoever loses patience may interrupt it.
const WAIT: Duration = Duration::from_secs(3_600);
/// How long a reload may take: it looks at directories, some of which may be on a slow server.
const RELOAD_PATIENCE: Duration = Duration::from_secs(600);

/// What an answer says, for the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// All is as it should be.
    Well,
    /// Some process needs attention, or what was asked of it is not done.
    NotWell,
    /// The configuration was refused.
    Faults,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// It cannot be told where the socket is.
    #[error(transparent)]
    Configuration(#[from] LoadError),
    /// No entry of a configuration has such a name.
    #[error("no process is called {0:?}: a name has A-Z, a-z, 0-9, _ . @ and - only")]
    Name(String),
    /// The daemon does not answer, or refuses.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Nothing can be asked or printed.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Nobody reads on; not a failure.
    #[error("nobody reads on")]
    Unread,
}

/// Runs a command that asks the daemon.
///
/// # Errors
///
/// [`OperatorError`].
pub fn run(command: &Command) -> Result<Said, OperatorError> {
    let said = match command {
        Command::Status { name, json, quiet, socket } => {
            status(&client(socket)?, name.as_deref(), *json, *quiet)
        }
        Command::Events { follow, json, socket } => events(&client(socket)?, *follow, *json),
        Command::Reload { json, socket } => reload(&client(socket)?, *json),
        Command::Stop(arguments) => request("stop", "", arguments),
        Command::Resume(arguments) => request("resume", "", arguments),
        Command::Restart(arguments) => request("restart", "", arguments),
        Command::Reset(arguments) => request("reset", "", arguments),
        Command::Pause { lasting, arguments } => request("pause", &pause(*lasting), arguments),
        // Not asked of a daemon.
        Command::Check { .. } | Command::Demo | Command::DemoService { .. } => Ok(Said::Well),
    };
    match said {
        Err(OperatorError::Unread) => Ok(Said::Well),
        said => said,
    }
}

fn client(argument: &SocketArgument) -> Result<Client, OperatorError> {
    let path = match &argument.socket {
        Some(path) => path.clone(),
        None => socket_path(argument)?,
    };
    Client::new(&path)
        .map_err(|source| OperatorError::System { what: "set up the runtime", source })
}

fn socket_path(argument: &SocketArgument) -> Result<PathBuf, LoadError> {
    let reader = Reader::this_process(true);
    Ok(socket_directory(argument.file.config.as_deref(), &reader)?.join(SOCKET))
}

fn status(
    client: &Client,
    name: Option<&str>,
    json: bool,
    quiet: bool,
) -> Result<Said, OperatorError> {
    let (text, body, ok) = if let Some(name) = name {
        let path = format!("/v1/processes/{}", in_path(name)?);
        let (process, body) = client.get::<Process>(&path)?;
        (table::process(&process, colours()), body, process.ok)
    } else {
        let (status, body) = client.get::<Status>("/v1/status")?;
        let ok = status.processes.iter().all(|process| process.ok);
        (table::status(&status, colours()), body, ok)
    };
    if quiet {
        return Ok(if ok { Said::Well } else { Said::NotWell });
    }
    print(if json { &body } else { text.as_bytes() })?;
    Ok(Said::Well)
}

fn events(client: &Client, follow: bool, json: bool) -> Result<Said, OperatorError> {
    let path = if follow { "/v1/events?follow=1" } else { "/v1/events" };
    client.lines(path, |line| {
        if json {
            return print(&[line, b"\n"].concat());
        }
        // What a newer healer says otherwise is shown as it is.
        match serde_json::from_slice::<Line>(line) {
            Ok(event) => print(table::event(&event).as_bytes()),
            Err(_) => print(&[line, b"\n"].concat()),
        }
    })?;
    Ok(Said::Well)
}

fn reload(client: &Client, json: bool) -> Result<Said, OperatorError> {
    let (reload, body): (Reload, Bytes) =
        client.post("/v1/reload", String::new(), RELOAD_PATIENCE, 422)?;
    let text = table::reload(&reload);
    print(if json { &body } else { text.as_bytes() })?;
    Ok(if reload.taken { Said::Well } else { Said::Faults })
}

fn pause(lasting: Option<Duration>) -> String {
    let pause = Pause { for_secs: lasting.map(|lasting| lasting.as_secs_f64()) };
    serde_json::to_string(&pause).expect("a number is JSON")
}

/// Asks the same of each process; one that refuses does not keep the others from being asked.
fn request(word: &str, body: &str, arguments: &RequestArguments) -> Result<Said, OperatorError> {
    let client = client(&arguments.socket)?;
    let (wait, query) = if arguments.no_wait {
        (Duration::ZERO, String::new())
    } else {
        (WAIT, format!("?wait_secs={}", WAIT.as_secs()))
    };
    let mut said = Said::Well;
    let mut refused: Option<OperatorError> = None;
    for name in &arguments.names {
        let asked = in_path(name).and_then(|name| {
            let path = format!("/v1/processes/{name}/{word}{query}");
            Ok(client.post::<Outcome>(&path, body.to_owned(), wait + PATIENCE, 200)?)
        });
        match asked {
            Ok((outcome, answer)) => {
                let text = table::outcome(&outcome);
                print(if arguments.json { &answer } else { text.as_bytes() })?;
                if !outcome.done && !arguments.no_wait {
                    said = Said::NotWell;
                }
            }
            Err(error) => {
                // The last one is told by the caller, as any error.
                if let Some(earlier) = refused.replace(error) {
                    eprintln!("error: {earlier}");
                }
            }
        }
    }
    refused.map_or(Ok(said), Err)
}

/// A name as it stands in a path: none that may exist needs escaping there.
fn in_path(name: &str) -> Result<&str, OperatorError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.@-".contains(&byte);
    let is_name = !name.is_empty() && name.bytes().all(is_plain);
    if is_name { Ok(name) } else { Err(OperatorError::Name(name.to_owned())) }
}

fn colours() -> Colours {
    let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if io::stdout().is_terminal() && !unwanted { Colours::Ansi } else { Colours::None }
}

fn print(bytes: &[u8]) -> Result<(), OperatorError> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|source| match source.kind() {
        io::ErrorKind::BrokenPipe => OperatorError::Unread,
        _ => OperatorError::System { what: "print the answer", source },
    })
}
