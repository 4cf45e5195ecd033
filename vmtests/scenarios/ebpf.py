# The kernel tells how a process ended that is not healer's child, and who ended it, on each kernel.
# What it cannot tell is left out, not guessed.


def ends(command):
    """Ends the process, which healer did not start, by a command, which has its PID in $pid;
    returns how healer says that it ended. A restart of healer makes the next one such a process.
    """
    return machine.succeed(
        f"""
        pid=$(cat /run/watched.pid)
        {command}
        until [ $(cat /run/watched.pid) != $pid ]; do sleep 0.2; done
        systemctl restart healer
        journalctl -t healer F_PROCESS=watched -o cat --output-fields=F_REASON | tail -n 1
        """,
        timeout=60,
    ).strip()


machine.wait_for_unit("healer.service")
machine.wait_for_file("/run/watched.pid", timeout=60)
machine.succeed("systemctl restart healer")

with subtest("eBPF works on this kernel"):
    machine.fail("journalctl -t healer -o cat | grep 'without eBPF'")

with subtest("it exited"):
    said = ends("touch /run/watched.exit")
    assert said == "exit code 7", said

with subtest("somebody else killed it"):
    said = ends("kill -KILL $pid")
    assert said.startswith("SIGKILL by bash (PID ") and said.endswith(", root)"), said

with subtest("a user other than root killed it"):
    # A capability permits it to him.
    uid = machine.succeed("id -u nobody").strip()
    said = ends("setpriv --reuid nobody --ambient-caps +kill --inh-caps +kill kill -TERM $pid")
    assert said.startswith("SIGTERM by kill (PID ") and said.endswith(f", uid {uid})"), said

with subtest("its cgroup had no memory left"):
    group = "/sys/fs/cgroup/watched"
    machine.succeed(f"mkdir {group}", f"echo 32M > {group}/memory.max")
    said = ends(f"echo $pid > {group}/cgroup.procs; touch /run/watched.grow")
    assert said == "OOM-killed (in cgroup /watched)", said
    machine.succeed(f"rmdir {group}")

if machine.execute("test -e /sys/fs/cgroup/init.scope/cgroup.kill")[0] == 0:
    with subtest("its cgroup was killed: not before Linux 5.14"):
        machine.succeed(f"mkdir {group}")
        said = ends(f"echo $pid > {group}/cgroup.procs; echo 1 > {group}/cgroup.kill")
        assert said.startswith("SIGKILL"), said
        machine.succeed(f"rmdir {group}")

machine.succeed("rm /run/watched.pid")
