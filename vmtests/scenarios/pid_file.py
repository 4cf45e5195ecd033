# A PID is not a process: what a PID file names may be somebody else by now.


def pid_in_file():
    return machine.succeed("cat /run/filed.pid").strip()


def listener():
    """The PID of whoever answers on the process's port."""
    machine.wait_for_open_port(7001, timeout=60)
    return machine.succeed("nc -d localhost 7001").strip()


machine.wait_for_unit("healer.service")
first = listener()

with subtest("what the file says does not matter while the process lives"):
    machine.succeed("sleep 1000 </dev/null >/dev/null 2>&1 & echo $! > /run/stranger")
    for says in ("cat /run/stranger", "printf ''", "echo nonsense", "echo -1", "echo 1"):
        machine.succeed(f"{says} > /run/filed.pid; sleep 2")
        assert listener() == first
    machine.succeed("kill -0 $(cat /run/stranger)")

with subtest(
    "it dies while the file names a stranger: nothing is guessed, and the log says what decides"
):
    machine.succeed("cat /run/stranger > /run/filed.pid; sleep 2", f"kill -KILL {first}")
    machine.wait_until_succeeds(
        "journalctl -t healer -o cat --output-fields=F_REASON | grep 'sleep 1000'", timeout=30
    )
    machine.fail("nc -z localhost 7001")
    machine.succeed("kill -0 $(cat /run/stranger)")

with subtest("the stranger is gone: it is started"):
    machine.succeed("kill $(cat /run/stranger)")
    second = listener()
    machine.wait_until_succeeds(f"test $(cat /run/filed.pid) = {second}", timeout=10)

with subtest(
    "the kernel gives its PID to a stranger while healer is away: it is started beside him"
):
    machine.succeed("systemctl stop healer", f"kill -KILL {second}; sleep 2")
    # The next process gets the number after this one, unless somebody else is quicker.
    machine.wait_until_succeeds(
        f"echo {int(second) - 1} > /proc/sys/kernel/ns_last_pid;"
        f" sleep 1000 </dev/null >/dev/null 2>&1 & [ $! = {second} ] || {{ kill $!; false; }}",
        timeout=60,
    )
    assert pid_in_file() == second
    machine.succeed("systemctl start healer")
    third = listener()
    assert third != second
    assert machine.succeed(f"cat /proc/{second}/comm").strip() == "sleep"

machine.succeed(f"kill {second}", "rm /run/filed.pid /run/stranger")
