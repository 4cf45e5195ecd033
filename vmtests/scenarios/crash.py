# Power is lost: after the next boot, all that healer guards is up again.
#
# newest kernel: a second boot takes a minute, and the kernel has little to do with it.

machine.wait_for_unit("healer.service")
machine.wait_for_open_port(7003, timeout=120)
machine.succeed("sync")

with subtest("the machine comes up after a crash"):
    machine.crash()
    machine.start()
    machine.wait_for_unit("multi-user.target")
    machine.wait_for_unit("healer.service")

with subtest("all that is configured answers"):
    for port in (7003, 7002, 7001):
        machine.wait_for_open_port(port, timeout=120)
