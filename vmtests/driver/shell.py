"""Commands for a root shell in the guest, over one line, as the NixOS test driver gives them.

The guest's `backdoor.service` runs a bash whose standard input and output are the line. For each
command it is sent one line, and answers with the output, encoded, and then with the status. Used by
`machine`.
"""

from __future__ import annotations

import base64
import shlex
import socket
import time

# What the guest says first; before it, the line may carry anything.
GREETING = b"Spawning backdoor root shell..."


class Broken(Exception):
    """The guest does not answer, or no longer."""


class Shell:
    """The driver's end of the line."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._read = b""

    def greet(self, timeout: float) -> None:
        """Waits for the guest's shell to be there."""
        deadline = time.monotonic() + timeout
        while GREETING not in self._next_line(deadline):
            pass

    def run(self, command: str, timeout: int | None, patience: float) -> tuple[int, str]:
        """Status and output of a command; 124 where it took more than `timeout` seconds.

        The guest may take `patience` more before it counts as broken.
        """
        limit = f"timeout {timeout} " if timeout is not None else ""
        strict = shlex.quote(f"set -euo pipefail; {command}")
        deadline = None if timeout is None else time.monotonic() + timeout + patience
        self.send(f"{limit}bash -c {strict} | (base64 -w 0; echo)\n")
        output = base64.b64decode(self._next_line(deadline))
        self.send("echo ${PIPESTATUS[0]}\n")
        status = self._next_line(deadline)
        return int(status), output.decode(errors="replace")

    def send(self, text: str) -> None:
        """Sends without waiting for an answer."""
        try:
            self._line.settimeout(60)
            self._line.sendall(text.encode())
        except OSError as error:
            raise Broken(f"the guest takes no command: {error}") from error

    def _next_line(self, deadline: float | None) -> bytes:
        while b"\n" not in self._read:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise Broken("the guest does not answer")
            self._line.settimeout(left)
            try:
                read = self._line.recv(65536)
            except TimeoutError:
                continue
            except OSError as error:
                raise Broken(f"the line to the guest broke: {error}") from error
            if not read:
                raise Broken("the guest is gone")
            self._read += read
        line, _, self._read = self._read.partition(b"\n")
        return line
