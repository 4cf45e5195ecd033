//! Many launches at the same time.

use tokio::task::JoinSet;

use crate::{Rig, process};

#[tokio::test]
async fn two_hundred_launches_at_once_all_become_their_program() {
    let rig = Rig::new();
    let began = std::time::Instant::now();
    let mut tasks = JoinSet::new();
    for number in 0..200 {
        let name = format!("web-{number}");
        let script = format!("echo {number}; exec sleep 1000");
        let spawned = rig.spawn(&process(&name, &["/bin/sh", "-c", &script])).unwrap();
        tasks.spawn(spawned.go());
    }
    let launched = tasks.join_all().await;
    eprintln!("200 launches took {:?}", began.elapsed());
    let mut pids: Vec<_> =
        launched.iter().map(|launched| launched.as_ref().unwrap().pid()).collect();
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 200);
    let deadline = std::time::Instant::now() + crate::PATIENCE;
    for number in 0..200 {
        while rig.logged(&format!("web-{number}")) != format!("{number}\n") {
            assert!(std::time::Instant::now() < deadline, "web-{number} writes in time");
            std::thread::yield_now();
        }
    }
}
