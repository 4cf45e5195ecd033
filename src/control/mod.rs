//! The control socket: what operators see of the daemon, and ask of it.
//!
//! `protocol` is what travels, JSON over HTTP/1.1 on a Unix socket. On the daemon's side, `socket`
//! is the place and who may use it, `server` the connections, `routes` the answers, `report` what
//! they say, `history` the last events. On the other side, `client` asks, and `table` shows.

pub mod client;
mod history;
pub mod protocol;
pub mod report;
mod routes;
pub mod server;
pub mod socket;
pub mod table;

/// The socket's name in `pid_file_directory`.
pub const SOCKET: &str = "healer.sock";
/// Whose members may use the socket, beside root and healer's own user.
pub const GROUP: &str = "healer";
