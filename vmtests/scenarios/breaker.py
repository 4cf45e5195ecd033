# What cannot live is not started again and again: the breaker opens, makes one trial per cooldown,
# and closes when a trial lives.
#
# newest kernel: healer alone decides how often it tries.

COOLDOWN = 15


def starts():
    """When it was started: seconds since the boot."""
    return [float(line) for line in machine.succeed("cat /run/fragile.starts").splitlines()]


def said(message):
    lines = machine.succeed("journalctl -t healer F_PROCESS=fragile -o cat --output-fields=MESSAGE")
    return lines.splitlines().count(message)


def wait_for(message, times):
    command = "journalctl -t healer F_PROCESS=fragile -o cat --output-fields=MESSAGE"
    machine.wait_until_succeeds(
        f"test $({command} | grep -cx '{message}') -ge {times}", timeout=120
    )


with subtest("it trips after the permitted restarts"):
    wait_for("breaker opened", 1)
    assert len(starts()) == 3, starts()

with subtest("it holds, and makes one trial after its cooldown"):
    wait_for("trial failed; breaker open again", 1)
    times = starts()
    assert len(times) == 4, times
    assert times[3] - times[2] >= COOLDOWN, times

with subtest("a trial that lives closes it"):
    machine.succeed("touch /run/fragile.works")
    wait_for("trial proved itself; breaker closed", 1)
    times = starts()
    assert len(times) == 5, times
    assert times[4] - times[3] >= COOLDOWN, times
    assert said("breaker opened") == 1

with subtest("closed, it permits restarts at once"):
    machine.succeed("pkill -KILL -f 'sleep infinit[y]'")
    machine.wait_until_succeeds("test $(wc -l < /run/fragile.starts) -eq 6", timeout=10)

machine.succeed("rm /run/fragile.*")
