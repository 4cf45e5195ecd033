# A process runs as its user, with no right of healer's; where that cannot be, it does not run.


def status(path):
    """What the kernel says of the process whose PID is in this file."""
    lines = machine.succeed(f"cat /proc/$(cat {path})/status").splitlines()
    return {name: value.split() for name, value in (line.split(":", 1) for line in lines)}


machine.wait_for_unit("healer.service")
machine.wait_for_file("/tmp/own.pid", timeout=60)
machine.wait_for_file("/run/root.pid", timeout=60)

with subtest("it has its user, its user's group, and no right beyond"):
    uid, gid = machine.succeed("id -u nobody; id -g nobody").split()
    own = status("/tmp/own.pid")
    assert own["Uid"] == [uid] * 4, own["Uid"]
    assert own["Gid"] == [gid] * 4, own["Gid"]
    assert "0" not in own["Groups"], own["Groups"]
    for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(own[kind][0], 16) == 0, f"{kind} is {own[kind]}"
    assert own["Umask"] == ["0027"], own["Umask"]

with subtest("its environment is its own"):
    variables = machine.succeed("tr '\\0' '\\n' < /proc/$(cat /tmp/own.pid)/environ").splitlines()
    names = {variable.split("=")[0] for variable in variables}
    assert "COLOUR=blue" in variables, variables
    assert not names & {"NOTIFY_SOCKET", "WATCHDOG_USEC", "INVOCATION_ID", "JOURNAL_STREAM"}, names

with subtest("its limits are its own, or those that a service of systemd has"):
    limits = machine.succeed(
        "prlimit --pid $(cat /tmp/own.pid) --nofile --raw --noheadings --output SOFT,HARD"
    )
    assert limits.split() == ["4096", "4096"], limits
    limits = machine.succeed(
        "prlimit --pid $(cat /run/root.pid) --nofile --raw --noheadings --output SOFT"
    )
    assert limits.split() == ["1024"], limits
    # healer is the last that memory is taken from; what it guards is not.
    assert machine.succeed("cat /proc/$(cat /run/root.pid)/oom_score_adj").strip() == "0"

with subtest("another incarnation has the same user"):
    pid = machine.succeed("cat /tmp/own.pid").strip()
    machine.succeed(f"kill -KILL {pid}")
    machine.wait_until_succeeds(f"test $(cat /tmp/own.pid) != {pid}", timeout=60)
    assert status("/tmp/own.pid")["Uid"] == [uid] * 4

with subtest("for a user that is not there nothing is started, least of all as root"):
    said = machine.succeed(
        "journalctl -t healer F_PROCESS=nobody-knows -o cat --output-fields=F_REASON"
    )
    assert "no-such-user" in said, said
    machine.fail("test -e /run/was-root")

machine.succeed("rm /tmp/own.pid /run/root.pid")
