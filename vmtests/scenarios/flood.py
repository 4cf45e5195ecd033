# Thousands of processes come and go. The one that is guarded is healed, each time, and once.

machine.wait_for_unit("healer.service")
machine.wait_for_file("/run/victim.pid", timeout=60)

with subtest("it is healed in the midst of a flood"):
    machine.succeed("guarded --orphans 1000000 </dev/null >/dev/null 2>&1 & echo $! > /run/flood")
    for _ in range(3):
        pid = machine.succeed("cat /run/victim.pid").strip()
        machine.succeed(f"kill -KILL {pid}")
        machine.wait_until_succeeds(f"test $(cat /run/victim.pid) != {pid}", timeout=60)
    machine.succeed("kill -KILL $(cat /run/flood)")

with subtest("three deaths, three restarts"):
    said = machine.succeed("journalctl -t healer F_PROCESS=victim -o cat --output-fields=MESSAGE")
    said = said.splitlines()
    assert said.count("ended") == 3, said
    assert (said.count("started"), said.count("restarted")) == (1, 3), said

machine.succeed("rm /run/victim.pid /run/flood")
