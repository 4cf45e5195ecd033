# The machine has no memory left. healer survives, and brings back what did not.

machine.wait_for_unit("healer.service")
machine.wait_for_file("/run/large.pid", timeout=60)
machine.wait_for_file("/run/small.pid", timeout=60)


def healer():
    return machine.get_unit_property("healer.service", "MainPID")


for turn in ("once", "twice"):
    with subtest(f"a guarded process takes all memory, {turn}"):
        before, large = healer(), machine.succeed("cat /run/large.pid").strip()
        machine.succeed("touch /run/large.grow")
        machine.wait_until_succeeds(f"test $(cat /run/large.pid) != {large}", timeout=180)
        assert healer() == before
        machine.require_unit_state("healer.service", "active")
        said = machine.succeed(
            "journalctl -t healer F_PROCESS=large -o cat --output-fields=F_REASON"
        )
        assert said.splitlines()[-1].startswith("OOM-killed"), said

with subtest("others are guarded as before"):
    small = machine.succeed("cat /run/small.pid").strip()
    machine.succeed(f"kill -KILL {small}")
    machine.wait_until_succeeds(f"test $(cat /run/small.pid) != {small}", timeout=60)

machine.succeed("rm /run/small.pid /run/large.pid")
