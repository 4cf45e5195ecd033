# The wall clock jumps by a year, there and back. Nothing that healer does follows it.
#
# newest kernel: which clock counts is the same on each.

machine.wait_for_unit("healer.service")
machine.wait_for_file("/run/steady.pid", timeout=60)
machine.wait_until_succeeds("journalctl -t healer -o cat | grep 'breaker opened'", timeout=60)


def pid():
    return machine.succeed("cat /run/steady.pid").strip()


for jump in ("+ 31536000", "- 63072000", "+ 31536000"):
    with subtest(f"the clock jumps by {jump} seconds"):
        steady = pid()
        healer = machine.get_unit_property("healer.service", "MainPID")
        machine.succeed(f"date --set @$(($(date +%s) {jump}))", "sleep 3")
        assert machine.get_unit_property("healer.service", "MainPID") == healer
        assert pid() == steady
        machine.succeed(f"kill -0 {steady}")
        # A cooldown is as long as it is.
        assert machine.succeed("wc -l < /run/broken.starts").strip() == "1"
        machine.succeed(f"kill -KILL {steady}")
        machine.wait_until_succeeds(f"test $(cat /run/steady.pid) != {steady}", timeout=60)
        machine.wait_for_open_port(7001, timeout=60)

machine.succeed("rm /run/steady.pid /run/broken.starts")
