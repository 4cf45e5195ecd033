"""One virtual machine: QEMU's process, with two serial ports. The first is the console, kept in a
file; the second is the driver's line to a shell. Used by `machine`; `probe` by `command`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .debian import Unavailable
from .kernels import Kernel

_PROGRAM = "qemu-system-x86_64"

# How long a kernel may take until its init has run, where KVM works.
_PROBE_SECONDS = 15

_COMMAND_LINE = (
    "console=ttyS0",
    # Emulated, and on a machine that others use, everything takes long without being hung.
    "rcupdate.rcu_cpu_stall_timeout=300",
    "watchdog_thresh=60",
    "mitigations=off",
    # A panic ends the machine, and a failed test does not wait for it.
    "panic=-1",
)


@dataclass(frozen=True)
class Hardware:
    """What all the virtual machines of a run have in common."""

    accelerator: str
    memory_mib: int = 1024
    cpus: int = 2

    def options(self, kernel: Kernel) -> list[str]:
        """QEMU's options for it."""
        cpu = ",".join(("max", *(f"-{feature}" for feature in kernel.release.cpu_without)))
        return [
            "-machine", "q35", "-nodefaults", "-display", "none", "-no-reboot",
            "-accel", self.accelerator, "-cpu", cpu,
            "-smp", str(self.cpus), "-m", str(self.memory_mib),
        ]  # fmt: skip


class Qemu:
    """A virtual machine that runs from its making until `end`."""

    def __init__(
        self,
        kernel: Kernel,
        initramfs: Path,
        hardware: Hardware,
        console: Path,
        arguments: Sequence[str] = (),
        messages: int | None = None,
    ) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="healer-vmtests-")
        with contextlib.ExitStack() as at_fault:
            at_fault.callback(self._directory.cleanup)
            listener = at_fault.enter_context(socket.socket(socket.AF_UNIX))
            path = Path(self._directory.name) / "shell"
            listener.bind(str(path))
            listener.listen()
            self._process = subprocess.Popen(
                [
                    *_wrapper(), _PROGRAM, *hardware.options(kernel),
                    "-kernel", kernel.image, "-initrd", initramfs,
                    "-append", " ".join((*_COMMAND_LINE, *arguments)),
                    "-serial", f"file:{console}",
                    "-chardev", f"socket,id=shell,path={path}", "-serial", "chardev:shell",
                ],
                stdin=subprocess.DEVNULL,
                stderr=messages,
                # A terminal's Ctrl-C is for the driver alone, which ends what it has started.
                start_new_session=True,
            )  # fmt: skip
            at_fault.callback(self.kill)
            self.shell = self._accept(listener)
            listener.close()
            at_fault.pop_all()

    def wait(self, timeout: float) -> bool:
        """Whether it ends by itself within so many seconds."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def end(self) -> None:
        """Ends it as pulling the plug does."""
        self.kill()
        self.shell.close()
        self._directory.cleanup()

    def _accept(self, listener: socket.socket) -> socket.socket:
        listener.settimeout(1)
        for _ in range(60):
            with contextlib.suppress(TimeoutError):
                return listener.accept()[0]
            if self._process.poll() is not None:
                break
        status = self._process.poll()
        raise Unavailable(f"QEMU does not start (status {status}): .ci/set-up test installs it")

    def kill(self) -> None:
        """Ends it; whoever uses its line finds it closed."""
        self._process.kill()
        self._process.wait()


def _wrapper() -> list[str]:
    """Ended with the driver, however that ends; and an emulated CPU gives way to other work."""
    return ["setpriv", "--pdeathsig", "KILL", "nice", "-n", str(max(0, 10 - os.nice(0)))]


def accelerator(kernel: Kernel, initramfs: Path, init: str) -> str:
    """KVM where it works, else emulation.

    That /dev/kvm is there does not say that it works: in some virtual machines a guest never gets
    anywhere. So a kernel is booted to its first program, which ends at once, as the kernel says.
    """
    emulated = "tcg,thread=multi"
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return emulated
    with tempfile.TemporaryDirectory(prefix="healer-vmtests-") as directory:
        console = Path(directory) / "console"
        try:
            qemu = Qemu(
                kernel, initramfs, Hardware("kvm"), console, [f"rdinit={init}"],
                messages=subprocess.DEVNULL,
            )  # fmt: skip
        except Unavailable:
            return emulated
        try:
            deadline = time.monotonic() + _PROBE_SECONDS
            while time.monotonic() < deadline and not qemu.wait(0.2):
                pass
        finally:
            qemu.end()
        return "kvm" if b"Attempted to kill init" in console.read_bytes() else emulated
