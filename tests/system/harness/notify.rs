//! The service manager's end of sd_notify(3): takes what healer says as fast as it says it.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

/// A bound `NOTIFY_SOCKET` and all that came in.
pub struct Notify {
    path: PathBuf,
    heard: Arc<Mutex<Vec<String>>>,
    listener: Option<JoinHandle<()>>,
}

impl Notify {
    pub fn bind(path: PathBuf) -> Self {
        let socket = UnixDatagram::bind(&path).unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let listener = thread::spawn({
            let heard = Arc::clone(&heard);
            move || listen(&socket, &heard)
        });
        Self { path, heard, listener: Some(listener) }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every assignment so far, in order.
    pub fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }
}

fn listen(socket: &UnixDatagram, heard: &Mutex<Vec<String>>) {
    let mut buffer = [0; 4096];
    // An empty datagram is Drop's.
    while let Ok(length @ 1..) = socket.recv(&mut buffer) {
        let text = String::from_utf8_lossy(&buffer[..length]);
        heard.lock().unwrap().extend(text.lines().map(ToOwned::to_owned));
    }
}

impl Drop for Notify {
    fn drop(&mut self) {
        let asked = UnixDatagram::unbound().and_then(|socket| socket.send_to(&[], &self.path));
        if let (Ok(_), Some(listener)) = (asked, self.listener.take()) {
            let _ = listener.join();
        }
    }
}
