"""A stand-in for a guest: plain bash at the other end of a socket pair, and what a virtual machine
has to offer to `Machine`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import unittest
from pathlib import Path

from driver.machine import Machine
from driver.shell import GREETING

# The driver's own backdoor, but for the terminal.
_BACKDOOR = f"echo; echo '{GREETING.decode()}'; exec bash --norc"

# Answers of a systemd that scenarios ask: `failed` and `idle` are units in that state.
_SYSTEMCTL = """#!/bin/sh
case "$*" in
    *list-jobs*) echo "No jobs running." ;;
    *failed*) echo ActiveState=failed ;;
    *idle*) echo ActiveState=inactive ;;
    *unknown*) exit 4 ;;
    *--property=ExecStart*) echo ExecStart=a=b ;;
    *--property=*) echo ActiveState=active ;;
    *) printf 'Id=x\\nActiveState=active\\nExecStart=a=b\\n' ;;
esac
"""


class StandIn:
    """Has the attributes of `Qemu` that a machine uses."""

    def __init__(self, directory: Path, silent: bool) -> None:
        self.shell, guest = socket.socketpair()
        path = f"{directory}:{os.environ['PATH']}"
        self.process = subprocess.Popen(
            ["bash", "-c", "exit" if silent else _BACKDOOR],
            stdin=guest, stdout=guest, stderr=subprocess.DEVNULL,
            env={**os.environ, "PATH": path}, cwd=directory,
        )  # fmt: skip
        guest.close()

    def wait(self, timeout: float) -> bool:
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.shell.close()


class GuestTest(unittest.TestCase):
    """A test with a machine whose guest is bash, in a temporary directory."""

    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.directory = Path(temporary.name)
        # The shell is the guest.
        for name, script in {
            "systemctl": _SYSTEMCTL,
            "poweroff": "#!/bin/sh\nkill -KILL $PPID\n",
        }.items():
            program = self.directory / name
            program.write_text(script)
            program.chmod(0o755)
        self.console = self.directory / "console"
        self.boots = 0
        # So many boots lead nowhere.
        self.failing_boots = 0
        self.machine = Machine(self._boot, self.console)
        self.addCleanup(self.machine.crash)

    def _boot(self) -> StandIn:
        self.boots += 1
        return StandIn(self.directory, silent=self.boots <= self.failing_boots)
