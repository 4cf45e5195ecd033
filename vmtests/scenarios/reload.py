# SIGHUP: what differs is taken over, what does not is left alone, and a bad file changes nothing.
#
# newest kernel: reading a file is healer's own.


def pid_of(name):
    return machine.succeed(f"cat /run/{name}.pid").strip()


def reload(edit):
    """Changes the configuration by a filter, and has healer read it."""
    machine.succeed(
        f"{edit} < /etc/healer/config.yaml > /run/config.yaml",
        # On NixOS it is a link to what nobody can write.
        "cp --remove-destination /run/config.yaml /etc/healer/config.yaml",
        "systemctl reload healer",
    )


def wait_for_message(message, times):
    command = "journalctl -t healer -o cat --output-fields=MESSAGE"
    machine.wait_until_succeeds(f"test $({command} | grep -cx '{message}') -ge {times}", timeout=60)


machine.wait_for_unit("healer.service")
for name in ("stays", "changes", "goes"):
    machine.wait_for_file(f"/run/{name}.pid", timeout=60)
before = {name: pid_of(name) for name in ("stays", "changes", "goes")}
machine.succeed("cp /etc/healer/config.yaml /run/config-before.yaml")

with subtest("one is changed, one taken out, one put in: none is disturbed"):
    reload("sed 's/7001/7002/; s/goes/comes/'")
    wait_for_message("configuration reloaded", 1)
    machine.wait_for_file("/run/comes.pid", timeout=60)
    for name, pid in before.items():
        assert pid_of(name) == pid, f"{name} was {pid}"
        machine.succeed(f"kill -0 {pid}")
    machine.wait_for_open_port(7001, timeout=10)

with subtest("what was changed is started with the change"):
    machine.succeed(f"kill -KILL {before['changes']}")
    machine.wait_for_open_port(7002, timeout=60)
    machine.wait_for_closed_port(7001, timeout=10)

with subtest("what was taken out is guarded no longer, what stayed and what was put in are"):
    machine.succeed(f"kill -KILL {before['goes']}")
    for name in ("stays", "comes"):
        pid = pid_of(name)
        machine.succeed(f"kill -KILL {pid}")
        machine.wait_until_succeeds(f"test $(cat /run/{name}.pid) != {pid}", timeout=60)
    assert pid_of("goes") == before["goes"]
    machine.fail("pgrep -f 'guarded --pid-file /run/goe[s].pid'")

with subtest("a bad file changes nothing"):
    now = {name: pid_of(name) for name in ("stays", "changes", "comes")}
    reload("sed 's/run_as_root: true/run_as_root: maybe/'")
    wait_for_message("reload refused; the configuration is as before", 1)
    machine.require_unit_state("healer.service", "active")
    for name, pid in now.items():
        machine.succeed(f"kill -KILL {pid}")
        machine.wait_until_succeeds(f"test $(cat /run/{name}.pid) != {pid}", timeout=60)

machine.succeed(
    "cp /run/config-before.yaml /etc/healer/config.yaml",
    "rm /run/config.yaml /run/config-before.yaml",
    "rm /run/stays.pid /run/changes.pid /run/goes.pid /run/comes.pid",
)
