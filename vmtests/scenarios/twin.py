# A container runs the same program, as the same user, with the same arguments. It is another.


def running(depth):
    """The PIDs of those that are so many PID namespaces deep."""
    return machine.succeed(
        "for pid in $(pgrep -x guarded); do"
        f" if [ $(grep NSpid /proc/$pid/status | wc -w) = {depth + 1} ]; then echo $pid; fi; done"
    ).split()


machine.wait_for_unit("healer.service")

with subtest("the container's is not adopted"):
    machine.succeed(
        "unshare --pid --fork --mount-proc guarded --tag twins </dev/null >/dev/null 2>&1 &"
    )
    machine.wait_until_succeeds("pgrep -x guarded", timeout=30)
    (twin,) = running(depth=2)
    machine.sleep(2)
    machine.fail("journalctl -t healer F_PROCESS=original -o cat | grep adopted")

with subtest("one outside of it is"):
    machine.succeed("setsid guarded --tag twins </dev/null >/dev/null 2>&1 &")
    machine.wait_until_succeeds(
        "journalctl -t healer F_PROCESS=original -o cat | grep adopted", timeout=30
    )
    (original,) = running(depth=1)

with subtest("it is healed although the container's lives"):
    machine.succeed(f"kill -KILL {original}")
    machine.wait_until_succeeds(
        "test $(journalctl -t healer F_PROCESS=original -o cat | grep -c restarted) = 1", timeout=30
    )
    (successor,) = running(depth=1)
    assert successor != original
    assert running(depth=2) == [twin]

with subtest("the container's death is nobody's concern"):
    machine.succeed(f"kill -KILL {twin}")
    machine.sleep(2)
    assert running(depth=1) == [successor]
    machine.succeed("test $(journalctl -t healer F_PROCESS=original -o cat | grep -c restarted) = 1")
