# healer may end in any way: what it guards goes on, and is guarded again when healer is back.

# Each answers whoever calls with its PID.
PORTS = (7001, 7002, 7003)


def pids():
    asked = " ".join(f"$(nc -d localhost {port})" for port in PORTS)
    answers = machine.wait_until_succeeds(
        f"set -- {asked}; [ $# = {len(PORTS)} ] && echo $@", timeout=60
    )
    return answers.split()


def healer():
    return machine.get_unit_property("healer.service", "MainPID")


def wait_for_another_healer(old):
    machine.wait_until_succeeds(
        f"pid=$(systemctl show -P MainPID healer); [ $pid != 0 ] && [ $pid != {old} ]"
        " && systemctl is-active healer",
        timeout=60,
    )


def kill_and_heal():
    """All are killed, and others answer in their place."""
    before = pids()
    machine.succeed(f"kill -KILL {' '.join(before)}")
    after = pids()
    assert not set(before) & set(after), f"{before} became {after}"


machine.wait_for_unit("healer.service")
guarded = pids()

with subtest("healer is killed: nothing else is disturbed"):
    old = healer()
    machine.succeed(f"kill -KILL {old}")
    wait_for_another_healer(old)
    assert pids() == guarded
    kill_and_heal()

with subtest("systemctl restart healer: nothing else is disturbed"):
    guarded, old = pids(), healer()
    machine.succeed("systemctl restart healer")
    assert healer() != old
    assert pids() == guarded
    kill_and_heal()

with subtest("what dies while healer is stopped is healed when it is back"):
    guarded = pids()
    machine.succeed("systemctl stop healer", f"kill -KILL {guarded[0]}")
    machine.wait_for_closed_port(PORTS[0], timeout=10)
    machine.succeed("systemctl start healer")
    now = pids()
    assert now[0] != guarded[0], now
    assert now[1:] == guarded[1:], now

with subtest("each was started once at a time"):
    running = machine.succeed("pgrep -fa '[-]-listen 700[123]'").splitlines()
    assert len(running) == len(PORTS), running

machine.succeed("rm -f /run/file.pid /run/daemon.pid")
