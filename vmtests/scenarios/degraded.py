# The kernel does not say what its structures look like, so eBPF cannot be used: healer says so, and
# heals all the same. Why a process ended that is not its child, it does not know, and does not
# guess.


def pid():
    return machine.succeed("cat /run/guarded.pid").strip()


def heals():
    old = pid()
    machine.succeed(f"kill -KILL {old}")
    machine.wait_until_succeeds(f"test $(cat /run/guarded.pid) != {old}", timeout=30)
    reasons = machine.succeed(
        "journalctl -t healer F_PROCESS=guarded -o cat --output-fields=F_REASON"
    )
    return reasons.splitlines()[-1]


machine.wait_for_unit("healer.service")
machine.wait_for_file("/run/guarded.pid", timeout=60)

with subtest("with BTF, the killer is named"):
    assert heals().startswith("SIGKILL by bash (PID "), heals()
    machine.fail("journalctl -t healer -o cat | grep 'without eBPF'")

machine.succeed("mount -t tmpfs none /sys/kernel/btf", "systemctl restart healer")

with subtest("without, healer says what is lacking and what is lost"):
    said = machine.succeed(
        "journalctl -t healer -o cat --output-fields=MESSAGE,F_REASON,F_LOST -p warning"
    )
    assert "watched by pidfd alone, without eBPF" in said, said
    assert "/sys/kernel/btf/vmlinux" in said, said

with subtest("what it found is healed; why it ended is unknown"):
    assert heals() == "cause unknown"

with subtest("what it started itself is healed; how it ended is known, not by whom"):
    assert heals() == "SIGKILL"

machine.succeed("umount /sys/kernel/btf", "rm /run/guarded.pid")
