# An operator asks how things stand, and has healer leave a process alone, or not.
#
# newest kernel: a socket is a socket.

import json


def web():
    """What healer says of the process."""
    (process,) = json.loads(machine.succeed("healer status --json"))["processes"]
    return process


def wait_for(state):
    def reached(last):
        now = web()
        assert not last or now["state"] == state, now
        return now["state"] == state

    retry(reached, 60)


machine.wait_for_unit("healer.service")
machine.wait_for_open_port(7001, timeout=60)
wait_for("up")

with subtest("status tells what there is"):
    pid = machine.succeed("cat /run/web.pid").strip()
    assert web()["instance"]["pid"] == int(pid), web()
    machine.succeed("healer status | grep web")

with subtest("killed, it is back, and status tells by whom"):
    machine.succeed(f"kill -KILL {pid}")
    machine.wait_until_succeeds(f"test $(cat /run/web.pid) != {pid}", timeout=60)
    last = web()["last_exit"]
    assert (last["pid"], last["signal"]) == (int(pid), "SIGKILL"), last

with subtest("stopped, it stays down, also over a reload"):
    machine.succeed("healer stop web")
    machine.wait_for_closed_port(7001, timeout=60)
    machine.succeed("systemctl reload healer; sleep 3")
    assert web()["state"] == "paused", web()
    machine.fail("nc -z localhost 7001")

with subtest("resumed, it is started"):
    machine.succeed("healer resume web")
    machine.wait_for_open_port(7001, timeout=60)

with subtest("restarted, it is another"):
    pid = machine.succeed("nc -d localhost 7001").strip()
    machine.succeed("healer restart web")
    machine.wait_until_succeeds(
        f"pid=$(nc -d localhost 7001) && [ -n $pid ] && [ $pid != {pid} ]", timeout=60
    )
    assert web()["failures"]["count"] == 1, web()

with subtest("nobody but root and the group healer is let in"):
    machine.fail("setpriv --reuid nobody --clear-groups healer status")

machine.succeed("rm /run/web.pid")
