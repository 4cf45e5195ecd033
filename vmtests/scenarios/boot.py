# healer is enabled: after a boot, all that it guards is up, in order, without anybody's help.

with subtest("systemd says that healer is up"):
    machine.wait_for_unit("multi-user.target")
    machine.wait_for_unit("healer.service")

with subtest("all that is configured answers"):
    for port in (7003, 7002, 7001):
        machine.wait_for_open_port(port, timeout=120)

with subtest("each runs once, and was started when what it needs was there"):
    assert machine.succeed("pgrep -fc '[-]-listen 700[123]'").strip() == "3"
    ready = machine.succeed("journalctl -t healer MESSAGE=ready -o cat --output-fields=F_PROCESS")
    assert ready.split()[:2] == ["first", "second"], ready
