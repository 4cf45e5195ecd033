//! A web server, as good as a test wants it to be.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// How long a slow answer takes.
const SLOW: Duration = Duration::from_millis(300);

/// Answers one request per connection: 200, or what the file says.
pub fn answer(listener: &TcpListener, says: Option<&Path>) {
    for mut caller in listener.incoming().flatten() {
        let said = says.and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
        let status = if said.is_empty() { "200" } else { said.trim() }.to_owned();
        thread::spawn(move || {
            let request = BufReader::new(&caller).lines();
            // To the empty line that ends it; or until the caller has had enough.
            let _ = request.map_while(Result::ok).take_while(|line| !line.is_empty()).count();
            let status = match status.as_str() {
                "hang" => crate::sleep_forever(),
                "slow" => {
                    thread::sleep(SLOW);
                    "200"
                }
                status => status,
            };
            let _ = write!(caller, "HTTP/1.1 {status} So\r\nContent-Length: 4\r\n\r\nwell");
        });
    }
}
