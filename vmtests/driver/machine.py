"""The object `machine` that scenarios talk to: what the NixOS test driver offers under that name,
as far as scenarios use it, with the same names, arguments and meanings.

One method more would have to be the NixOS driver's too; `scenario` refuses what it does not know.
Used by `scenario` and `session`.
"""

from __future__ import annotations

import base64
import contextlib
import re
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from . import log
from .qemu import Qemu
from .shell import Broken, Shell

# As long as the NixOS test driver waits.
_PATIENCE = 900

# How long a guest may take until its shell answers: emulated, while others use the machine too.
_BOOT_SECONDS = 200

# How often it is booted until it counts as broken. Emulated CPUs that a busy machine keeps waiting
# sometimes never find together, before the kernel runs any program.
_BOOTS = 3

# How much longer than its time-out a command may take until the guest counts as broken.
_GRACE_SECONDS = 120


class Failed(Exception):
    """What a scenario asked for did not come about."""


class Machine:
    """A guest, of which at most one virtual machine runs at a time."""

    def __init__(self, boot: Callable[[], Qemu], console: Path) -> None:
        self._boot = boot
        self._console = console
        self._qemu: Qemu | None = None
        self._shell: Shell | None = None
        # What the console had said when a wait for its text last succeeded.
        self._console_seen = 0

    # Its life.

    def start(self, allow_reboot: bool = False) -> None:
        """Starts it, if it does not run."""
        del allow_reboot  # A reboot ends this QEMU, and `reboot` starts another.
        if self._qemu is None:
            self._console_seen = 0
            self._qemu = self._boot()

    def connect(self) -> Shell:
        """Starts it, and waits for its shell."""
        for _ in range(_BOOTS - 1):
            try:
                return self._connect()
            except Broken as error:
                log.say(f"booted anew: {error}")
                self.crash()
        return self._connect()

    def _connect(self) -> Shell:
        self.start()
        if self._shell is None:
            assert self._qemu is not None
            with _told("boot"):
                shell = Shell(self._qemu.shell)
                shell.greet(_BOOT_SECONDS)
            self._shell = shell
        return self._shell

    @property
    def connected(self) -> bool:
        """Whether its shell has answered since it was started."""
        return self._shell is not None

    def crash(self) -> None:
        """Ends it as a loss of power does."""
        if self._qemu is not None:
            self._qemu.end()
        self._qemu = self._shell = None

    def shutdown(self) -> None:
        """Shuts it down in good order."""
        if self._qemu is not None:
            self.connect().send("poweroff\n")
            self.wait_for_shutdown()

    def reboot(self) -> None:
        """Boots it anew in good order."""
        self.shutdown()
        self.start()

    def wait_for_shutdown(self) -> None:
        """Waits until it is off."""
        if self._qemu is not None:
            with _told("shutdown"):
                if not self._qemu.wait(_PATIENCE):
                    raise Failed("it does not shut down")
            self.crash()

    # Commands.

    def execute(
        self,
        command: str,
        check_return: bool = True,
        check_output: bool = True,
        timeout: int | None = _PATIENCE,
    ) -> tuple[int, str]:
        """Status and output of a shell command; -2 and -1 for a status that nobody waits for."""
        shell = self.connect()
        if not check_output:
            shell.send(f"bash -c {shlex.quote(command)} >/dev/null 2>&1 </dev/null &\n")
            return -2, ""
        status, output = shell.run(command, timeout, _GRACE_SECONDS)
        return (status if check_return else -1), output

    def succeed(self, *commands: str, timeout: int | None = None) -> str:
        """The output of commands, each of which has to succeed."""
        return "".join(self._expect(command, True, timeout) for command in commands)

    def fail(self, *commands: str, timeout: int | None = None) -> str:
        """The output of commands, none of which may succeed."""
        return "".join(self._expect(command, False, timeout) for command in commands)

    def wait_until_succeeds(self, command: str, timeout: int = _PATIENCE) -> str:
        """Repeats a command until it succeeds."""
        return self._repeat(command, True, timeout)

    def wait_until_fails(self, command: str, timeout: int = _PATIENCE) -> str:
        """Repeats a command until it fails."""
        return self._repeat(command, False, timeout)

    def sleep(self, secs: int) -> None:
        """Lets the guest's time go by."""
        self.succeed(f"sleep {secs}")

    def copy_from_host_via_shell(self, source: str, target: str) -> None:
        """Copies a file into the guest, piece by piece."""
        content = base64.b64encode(Path(source).read_bytes()).decode()
        quoted = shlex.quote(target)
        make = f"mkdir -p $(dirname {quoted}); : > {quoted}; "
        # In whole units of base64, and far from the longest command line.
        for begin in range(0, max(1, len(content)), 32768):
            piece = content[begin : begin + 32768]
            self.succeed(f"{make}echo -n {piece} | base64 -d >> {quoted}")
            make = ""

    # systemd.

    def systemctl(self, query: str, user: str | None = None) -> tuple[int, str]:
        """Status and output of systemctl."""
        if user is not None:
            query = f"--user --machine {shlex.quote(user)}@ {query}"
        return self.execute(f"systemctl {query}")

    def get_unit_info(self, unit: str, user: str | None = None) -> dict[str, str]:
        """All properties of a unit."""
        status, lines = self.systemctl(f"--no-pager show {shlex.quote(unit)}", user)
        if status != 0:
            raise Failed(f"systemctl show {unit} failed with status {status}")
        return dict(line.split("=", 1) for line in lines.splitlines() if "=" in line)

    def get_unit_property(self, unit: str, property: str, user: str | None = None) -> str:
        """One property of a unit."""
        query = f"--no-pager show {shlex.quote(unit)} --property={shlex.quote(property)}"
        status, lines = self.systemctl(query, user)
        if status != 0 or not lines.startswith(f"{property}="):
            raise Failed(f"systemctl does not tell {property} of {unit}: status {status}, {lines}")
        return lines.removeprefix(f"{property}=").rstrip("\n")

    def require_unit_state(self, unit: str, require_state: str = "active") -> None:
        """Fails where the unit is in another state."""
        state = self.get_unit_property(unit, "ActiveState")
        if state != require_state:
            raise Failed(f"unit {unit} is {state}, not {require_state}")

    def start_job(self, unit: str, user: str | None = None) -> tuple[int, str]:
        """Starts a unit."""
        return self.systemctl(f"start {shlex.quote(unit)}", user)

    def stop_job(self, unit: str, user: str | None = None) -> tuple[int, str]:
        """Stops a unit."""
        return self.systemctl(f"stop {shlex.quote(unit)}", user)

    def wait_for_unit(self, unit: str, user: str | None = None, timeout: int = _PATIENCE) -> None:
        """Waits until a unit is active; fails at once where it failed, or nothing will start it."""

        def active(last: bool) -> bool:
            state = self.get_unit_property(unit, "ActiveState", user)
            if state == "failed":
                raise Failed(f"unit {unit} failed")
            if state == "inactive" and "No jobs" in self.systemctl("list-jobs --full", user)[1]:
                # Asked again: its job may have ended between the two questions.
                state = self.get_unit_property(unit, "ActiveState", user)
                if state == "inactive":
                    raise Failed(f"unit {unit} is inactive, and there are no pending jobs")
            return _settled(state == "active", last, f"unit {unit} is {state}")

        with _told(f"unit {unit}"):
            retry(active, timeout)

    # What there is in it.

    def wait_for_file(self, filename: str, timeout: int = _PATIENCE) -> None:
        """Waits until a file exists."""
        self._repeat(f"test -e {shlex.quote(filename)}", True, timeout)

    def wait_for_open_port(
        self, port: int, addr: str = "localhost", timeout: int = _PATIENCE
    ) -> None:
        """Waits until somebody listens."""
        self._repeat(f"nc -z {addr} {port}", True, timeout)

    def wait_for_closed_port(
        self, port: int, addr: str = "localhost", timeout: int = _PATIENCE
    ) -> None:
        """Waits until nobody listens."""
        self._repeat(f"nc -z {addr} {port}", False, timeout)

    def wait_for_open_unix_socket(self, addr: str, timeout: int = _PATIENCE) -> None:
        """Waits until somebody listens at a path."""
        self._repeat(f"nc -z -U {shlex.quote(addr)}", True, timeout)

    def get_console_log(self) -> str:
        """All that its console has said since it was started."""
        return self._console.read_text(errors="replace") if self._console.exists() else ""

    def wait_for_console_text(self, regex: str, timeout: int | None = None) -> None:
        """Waits until its console says this, after what was waited for before."""

        def said(last: bool) -> bool:
            text = self.get_console_log()
            found = re.search(regex, text[self._console_seen :])
            if found:
                self._console_seen += found.end()
            return _settled(found is not None, last, f"the console does not say /{regex}/")

        with _told(f"console says /{regex}/"):
            retry(said, _PATIENCE if timeout is None else timeout)

    def _expect(self, command: str, success: bool, timeout: int | None) -> str:
        status, output = self.execute(command, timeout=_PATIENCE if timeout is None else timeout)
        if (status == 0) is not success:
            wanted = "failed" if success else "succeeded, which it should not,"
            raise Failed(f"`{command}` {wanted} with status {status}:\n{output}")
        return output

    def _repeat(self, command: str, success: bool, timeout: int) -> str:
        output = ""

        def holds(last: bool) -> bool:
            nonlocal output
            status, output = self.execute(command, timeout=timeout)
            says = f"`{command}` still ends with status {status}: {output}"
            return _settled((status == 0) is success, last, says)

        with _told(f"{'success' if success else 'failure'} of `{command}`"):
            retry(holds, timeout)
        return output


def retry(fn: Callable[[bool], bool], timeout_seconds: int = _PATIENCE) -> None:
    """Repeats until true, each second; the last time it is told that it is the last time."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        if fn(False):
            return
        time.sleep(1)
    if not fn(True):
        raise Failed(f"not within {timeout_seconds} seconds")


def _settled(holds: bool, last: bool, otherwise: str) -> bool:
    """What a try tells `retry`; the last one says what was lacking."""
    if last and not holds:
        raise Failed(otherwise)
    return holds


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Tells waits that were long enough to be asked about."""
    begin = time.monotonic()
    try:
        yield
    except Broken as error:
        raise Broken(f"while waiting for {what}: {error}") from error
    seconds = time.monotonic() - begin
    if seconds > 5:
        log.say(f"waited {seconds:.1f} s for {what}")
