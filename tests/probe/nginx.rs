//! nginx as the distribution has it.

use healer::event::Signal;
use healer::instance::Held;
use healer::monitor::network::health::Outcome;

use super::{failed, outcome};

#[path = "../stand_in/mod.rs"]
mod stand_in;

use stand_in::{children_of, free_port, nginx, nginx_conf};

#[tokio::test]
async fn nginx_is_asked_and_hangs() {
    let directory = tempfile::tempdir().unwrap();
    let port = free_port();
    let conf = nginx_conf(directory.path(), port);
    let listen = format!("listen 127.0.0.1:{port};");
    let places = "location / { return 200 'all is well'; } location /broken { return 500; } \
                  location /moved { return 302 /broken; }";
    let text = std::fs::read_to_string(&conf).unwrap();
    std::fs::write(&conf, text.replace(&listen, &format!("{listen} {places}"))).unwrap();
    let nginx = nginx(&["-c", conf.to_str().unwrap(), "-g", "daemon off;"], port);
    let workers = children_of(nginx.pid());
    let keys = |path: &str| format!("target_url: 'http://127.0.0.1:{port}{path}'");
    for (path, expected) in [
        ("/", Outcome::Passed),
        ("/moved", Outcome::Passed),
        ("/broken", failed("HTTP status 500")),
    ] {
        assert_eq!(outcome(&keys(path)).await, expected, "{path}");
    }
    assert_eq!(outcome(&format!("{}, expect_body: well", keys("/"))).await, Outcome::Passed);
    for worker in &workers {
        let held = Held::open_exactly(*worker).unwrap().unwrap();
        held.signal(Signal(libc::SIGSTOP)).unwrap();
    }
    // Connections are still accepted, by the kernel.
    let connects = format!("target_url: 'tcp://127.0.0.1:{port}'");
    assert_eq!(outcome(&connects).await, Outcome::Passed);
    let hangs = failed("timed out after 0.5 s while waiting for the response");
    assert_eq!(outcome(&format!("{}, timeout_secs: 0.5", keys("/"))).await, hangs);
}
