# However a process ends, and whichever monitor watches it: it is back at once, once, and the log
# says how it ended, and by whom.


def heals(name, end):
    """Ends the process by a command, which has its PID in $pid, and waits for the next instance;
    returns how healer says that it ended.
    """
    return machine.succeed(
        f"""
        pid=$(cat /run/{name}.pid)
        starts=$(wc -l < /run/{name}.starts)
        {end}
        until [ $(cat /run/{name}.pid) != $pid ]; do sleep 0.2; done
        if kill -0 $pid; then echo "$pid lives"; exit 1; fi
        kill -0 $(cat /run/{name}.pid)
        [ $(wc -l < /run/{name}.starts) = $((starts + 1)) ]
        journalctl --sync
        journalctl -t healer F_PROCESS={name} -o cat --output-fields=F_REASON | tail -n 1
        """,
        timeout=60,
    ).strip()


machine.wait_for_unit("healer.service")
for name in ("pid", "ebpf"):
    machine.wait_for_file(f"/run/{name}.pid", timeout=60)

for name in ("pid", "ebpf"):
    with subtest(f"{name}: killed"):
        for signal in ("KILL", "SEGV"):
            said = heals(name, f"kill -{signal} $pid")
            # A shell has kill(1) built in: it is the killer itself.
            assert said.startswith(f"SIG{signal} by bash (PID "), said

    with subtest(f"{name}: exits by itself"):
        said = heals(name, f"touch /run/{name}.exit")
        assert said == "exit code 3", said

    with subtest(f"{name}: killed because its cgroup has no memory left"):
        group = f"/sys/fs/cgroup/{name}-grows"
        machine.succeed(f"mkdir {group}", f"echo 32M > {group}/memory.max")
        said = heals(name, f"echo $pid > {group}/cgroup.procs; touch /run/{name}.grow")
        machine.succeed(f"rmdir {group}")
        assert said == f"OOM-killed (in cgroup /{name}-grows)", said

machine.succeed("rm -f /run/pid.* /run/ebpf.*")
