"""One kernel: boots once, runs all its scenarios one after the other, and keeps what tells why one
failed. Used by `command`.
"""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import log
from .kernels import Kernel
from .machine import Failed, Machine
from .qemu import Hardware, Qemu
from .scenario import Scenario
from .shell import Broken

# Makes the guest what it would be after a boot with another configuration of healer. It is one
# command, as each takes its time where the CPU is emulated.
_RESET = """
until systemctl --quiet is-active multi-user.target; do sleep 0.5; done
systemctl reset-failed
systemctl stop healer
# What healer guards goes on without it, which is not wanted here. Its unit's cgroup holds them all.
group=/sys/fs/cgroup/system.slice/healer.service
while pids=$(find $group -name cgroup.procs -exec cat {} + 2>/dev/null || true); [ -n "$pids" ]; do
    kill -KILL $pids 2>/dev/null || true
    sleep 0.1
done
find /run/healer /var/log/healer -mindepth 1 -delete 2>/dev/null || true
# What the scenario before had in the journal.
journalctl --quiet --rotate
find /run/log/journal -name '*@*' -delete
"""

# What is kept of a guest in which a scenario failed: the file, and the command that prints it.
_EVIDENCE = {
    "journal.txt": "journalctl --no-pager --boot --output short-precise",
    # healer's own lines, with the fields that their data is in.
    "healer-log.txt": "journalctl --no-pager --output verbose SYSLOG_IDENTIFIER=healer |"
    " grep -vE '^ +(_|SYSLOG|TARGET)'",
    "healer.txt": "systemctl --no-pager --full status healer || true;"
    " cat /etc/healer/config.yaml; ls -lR /run/healer; healer status || true",
    "processes.txt": "ps -eo pid,ppid,sid,uid,stat,lstart,rss,comm,args",
    "kernel.txt": "dmesg",
}


@dataclass
class Session:
    """A kernel's run."""

    kernel: Kernel
    initramfs: Path
    hardware: Hardware
    # Where the console's text and, of each failure, the evidence are kept.
    results: Path
    passed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    _qemu: Qemu | None = None
    _ended: bool = False

    def run(self, scenarios: Sequence[Scenario]) -> None:
        """Runs them all; it does not raise for what a scenario or the guest does."""
        log.speak_for(self.kernel.release.name)
        log.say(f"Linux {self.kernel.version}, {self.hardware.accelerator}")
        shutil.rmtree(self.results, ignore_errors=True)
        self.results.mkdir(parents=True)
        machine = Machine(self._boot, self.results / "console.txt")
        untouched = True
        try:
            for scenario in scenarios:
                if self._ended:
                    break
                fresh = untouched and scenario.name == "boot"
                self._run_one(machine, scenario, fresh)
                untouched = False
        finally:
            machine.crash()

    def end(self) -> None:
        """Ends the virtual machine, from another thread; `run` then ends soon."""
        self._ended = True
        if self._qemu is not None:
            self._qemu.kill()

    def _run_one(self, machine: Machine, scenario: Scenario, fresh: bool) -> None:
        log.say(f"{scenario.name}")
        begin = time.monotonic()
        try:
            if not fresh:
                self._prepare(machine, scenario)
            scenario.run(machine)
        except Exception as error:
            self.failed.append(scenario.name)
            log.say(_trace(scenario, error))
            self._keep_evidence(machine, self.results / scenario.name)
            # What it had begun, nobody takes back: the next one gets another guest.
            machine.crash()
            log.say(f"FAILED after {time.monotonic() - begin:.1f} s: {scenario.name}")
        else:
            self.passed.append(scenario.name)
            log.say(f"passed, {time.monotonic() - begin:.1f} s: {scenario.name}")

    def _prepare(self, machine: Machine, scenario: Scenario) -> None:
        """Has healer run with the scenario's configuration, as if the guest had booted with it."""
        machine.succeed(_RESET, timeout=300)
        machine.copy_from_host_via_shell(str(scenario.configuration), "/etc/healer/config.yaml")
        machine.succeed("systemctl start healer")

    def _keep_evidence(self, machine: Machine, directory: Path) -> None:
        directory.mkdir(parents=True)
        shutil.copy(self.results / "console.txt", directory / "console.txt")
        try:
            # Where it never came up, another boot would tell nothing of this one.
            for name, command in _EVIDENCE.items() if machine.connected else ():
                _, text = machine.execute(f"({command}) 2>&1", timeout=60)
                (directory / name).write_text(text)
        except (Broken, Failed) as error:
            log.say(f"the guest tells nothing more: {error}")
        log.say(f"what tells of it is in {directory}")

    def _boot(self) -> Qemu:
        if self._ended:
            raise Broken("the run was interrupted")
        console = self.results / "console.txt"
        self._qemu = Qemu(self.kernel, self.initramfs, self.hardware, console)
        return self._qemu


def _trace(scenario: Scenario, error: Exception) -> str:
    """The error, after the lines of the scenario that led to it."""
    lines = [
        f"  {scenario.script.name}, line {frame.lineno}: {frame.line}"
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(scenario.script)
    ]
    return "\n".join([*lines, f"  {type(error).__name__}: {error}"])
