# Two hundred processes die at the same moment. All are back, none twice.
#
# newest kernel: two hundred starts take long where the CPU is emulated.

COUNT = 200
LIVING = "pgrep -cx guarded"

machine.wait_for_unit("healer.service")
machine.succeed(
    "{ echo 'processes:'; for number in $(seq %d); do"
    ' echo "  - { name: many-$number, command: guarded, args: [--tag, many-$number],"'
    " \"run_as_root: true, output: 'null', monitor: { type: ebpf } }\";"
    " done; } > /run/config.yaml" % COUNT,
    "cp --remove-destination /run/config.yaml /etc/healer/config.yaml",
    "systemctl reload healer",
)

with subtest("all are started"):
    machine.wait_until_succeeds(f"test $({LIVING}) = {COUNT}", timeout=400)

with subtest("all are killed, and all are back"):
    machine.succeed("pgrep -x guarded | sort > /run/many.before")
    machine.succeed("pkill -KILL -x guarded")
    machine.wait_until_succeeds(f"test $({LIVING}) = {COUNT}", timeout=400)
    machine.succeed("pgrep -x guarded | sort > /run/many.after")
    both = machine.succeed("comm -12 /run/many.before /run/many.after")
    assert both == "", both

with subtest("none was started twice"):
    said = machine.succeed("journalctl -t healer -o cat --output-fields=MESSAGE").splitlines()
    assert said.count("ended") == COUNT, said.count("ended")
    assert said.count("started") == COUNT, said.count("started")
    assert said.count("restarted") == COUNT, said.count("restarted")

with subtest("healer keeps within its bounds"):
    healer = machine.get_unit_property("healer.service", "MainPID")
    kib = int(machine.succeed(f"awk '/VmRSS/ {{ print $2 }}' /proc/{healer}/status"))
    log.info(f"healer takes {kib} KiB with {COUNT} processes")
    assert kib < 64 * 1024, kib

machine.succeed("rm /run/config.yaml /run/many.*")
