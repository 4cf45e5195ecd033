# What a process depends on answers before it is started.
#
# newest kernel: healer alone decides who waits for whom.


def pids(name):
    """The PIDs of all its instances so far."""
    return machine.succeed(f"cat /run/{name}.starts").split()


def wait_for_start(name, number):
    machine.wait_until_succeeds(f"test $(wc -l < /run/{name}.starts) -ge {number}", timeout=60)


machine.wait_for_unit("healer.service")

with subtest("as healer starts, the other waits until the dependency answers"):
    wait_for_start("app", 1)

with subtest("both are killed: the same"):
    machine.succeed(f"kill -KILL {pids('db')[-1]} {pids('app')[-1]}")
    wait_for_start("app", 2)

with subtest("the dependency alone is killed: the other is left alone"):
    app = pids("app")
    machine.succeed(f"kill -KILL {pids('db')[-1]}")
    wait_for_start("db", 3)
    machine.wait_for_open_port(7001, timeout=60)
    assert pids("app") == app
    machine.succeed(f"kill -0 {app[-1]}")

with subtest("while the dependency does not get up, the other waits; then both are back"):
    machine.succeed("touch /run/db.broken", f"kill -KILL {pids('db')[-1]} {app[-1]}", "sleep 5")
    assert pids("app") == app
    machine.succeed(
        "journalctl -t healer F_PROCESS=app F_DEPENDENCY=db -o cat | grep 'waits for a dependency'"
    )
    machine.succeed("rm /run/db.broken")
    wait_for_start("app", 3)

machine.fail("test -e /run/app.early")
machine.succeed("rm /run/app.starts /run/db.starts")
