# A server that lives but does not answer, or answers with an error, is ended and started anew.
#
# newest kernel: probes are healer's own.


def pid():
    return machine.succeed("cat /run/hung.pid").strip()


def wait_for(message, times):
    command = "journalctl -t healer F_PROCESS=web -o cat --output-fields=MESSAGE"
    machine.wait_until_succeeds(f"test $({command} | grep -c '{message}') -ge {times}", timeout=120)


machine.wait_for_unit("healer.service")
machine.succeed("mkdir -p /run/hung-root; echo well > /run/hung-root/health")
wait_for("ready", 1)
machine.wait_for_open_port(7002, timeout=60)
bystander = machine.succeed("nc -d localhost 7002")

with subtest("it stops answering: it is ended, with its workers, and started"):
    old = pid()
    workers = machine.succeed(f"pgrep -P {old}").split()
    machine.succeed(f"kill -STOP {old} {' '.join(workers)}")
    wait_for("hung", 1)
    machine.wait_until_succeeds(f"test $(cat /run/hung.pid) != {old}", timeout=60)
    for gone in (old, *workers):
        machine.fail(f"kill -0 {gone}")
    wait_for("ready", 2)

with subtest("it answers with an error: it is ended and started"):
    old = pid()
    machine.succeed("mv /run/hung-root/health /run/hung-root/gone")
    machine.wait_until_succeeds(f"test $(cat /run/hung.pid) != {old}", timeout=120)
    machine.succeed("mv /run/hung-root/gone /run/hung-root/health")
    wait_for("ready", 3)

with subtest("the one that answers was left alone"):
    assert machine.succeed("nc -d localhost 7002") == bystander

machine.succeed("systemctl stop healer; pkill -KILL nginx; rm -rf /run/hung*")
