# What a process depends on is there before it is started.
#
# newest kernel: healer alone decides who waits for whom.


def starts(name):
    """When it was started: seconds since the boot."""
    return [float(line) for line in machine.succeed(f"cat /run/{name}.starts").splitlines()]


def pid(name):
    return machine.succeed(f"cat /run/{name}.pid").strip()


def wait_for_start(name, number):
    machine.wait_until_succeeds(f"test $(wc -l < /run/{name}.starts) -ge {number}", timeout=60)


machine.wait_for_unit("healer.service")

with subtest("as healer starts, the dependency is started first, and ready before the other is"):
    wait_for_start("app", 1)
    assert starts("app")[0] >= starts("db")[0] + 2

with subtest("both are killed: the same"):
    machine.succeed(f"kill -KILL {pid('app')} {pid('db')}")
    wait_for_start("app", 2)
    assert starts("app")[1] >= starts("db")[1] + 2

with subtest("the dependency alone is killed: the other is left alone"):
    app = pid("app")
    machine.succeed(f"kill -KILL {pid('db')}")
    wait_for_start("db", 3)
    machine.succeed(f"sleep 3; kill -0 {app}")
    assert len(starts("app")) == 2

with subtest("while the dependency does not get up, the other waits; then both are back"):
    machine.succeed("touch /run/db.broken", f"kill -KILL {pid('app')} {pid('db')}", "sleep 5")
    assert len(starts("app")) == 2
    machine.succeed(
        "journalctl -t healer F_PROCESS=app F_DEPENDENCY=db -o cat | grep 'waits for a dependency'"
    )
    machine.succeed("rm /run/db.broken")
    wait_for_start("app", 3)
    assert starts("app")[2] >= starts("db")[-1] + 2

machine.succeed("rm /run/app.* /run/db.*")
