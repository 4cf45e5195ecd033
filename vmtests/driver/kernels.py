"""Debian's kernels: of each package the one file that QEMU boots. Modules are not needed, as what
the guest uses is built in.

A kernel is fetched once and kept, until `vmtests/run --fresh`. Used by `command`.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from . import log
from .debian import Apt, Mirror, Unavailable

# For virtual machines: small, with serial ports and virtio built in.
_META_PACKAGE = "linux-image-cloud-amd64"


@dataclass(frozen=True)
class Release:
    """One of the kernels to test on."""

    name: str
    # Where its package is, the first that has it. Those with few packages come first.
    suites: tuple[str, ...]
    # What of a CPU the emulation of QEMU 7.2 gets wrong with it.
    cpu_without: tuple[str, ...] = ()


# In the order of their age; `newest` is whatever Debian's backports have.
RELEASES = (
    Release("5.10", ("bullseye-security", "bullseye")),
    Release("6.1", ("bookworm-security", "bookworm")),
    # It crashes early where cmpxchg16b is emulated.
    Release("6.12", ("trixie-security", "trixie"), cpu_without=("cx16",)),
    Release("newest", ("trixie-backports", "sid")),
)


@dataclass(frozen=True)
class Kernel:
    """A kernel that is at hand."""

    release: Release
    version: str
    image: Path


def fetch(release: Release, cache: Path, fresh: bool) -> Kernel:
    """Takes a kernel from the cache, or Debian's archive."""
    directory = cache / release.name
    if fresh:
        shutil.rmtree(directory, ignore_errors=True)
    kept = sorted(directory.glob("vmlinuz-*"))
    if not kept:
        directory.mkdir(parents=True, exist_ok=True)
        kept = [_fetch(release, directory)]
    file = kept[-1]
    return Kernel(release, file.name.removeprefix("vmlinuz-"), file)


def _fetch(release: Release, directory: Path) -> Path:
    mirror = Mirror.of_this_machine()
    faults = []
    for suite in release.suites:
        log.say(f"fetching kernel {release.name} from Debian's {suite}")
        with tempfile.TemporaryDirectory(prefix="healer-vmtests-") as temporary:
            try:
                apt = Apt(Path(temporary), mirror, suite)
                return _take(apt, directory)
            except Unavailable as error:
                faults.append(f"{suite}: {error}")
    raise Unavailable(f"no kernel {release.name} can be had: {'; '.join(faults)}")


def _take(apt: Apt, directory: Path) -> Path:
    (image,) = _named("linux-image-", apt.dependencies(_META_PACKAGE))
    # Since Linux 7 the file is below /usr/lib/modules, in a package that this one depends on.
    package = next(iter(_named("linux-binary-", apt.dependencies(image))), image)
    unpacking = subprocess.Popen(
        ("dpkg-deb", "--fsys-tarfile", apt.download(package)), stdout=subprocess.PIPE
    )
    try:
        with tarfile.open(fileobj=unpacking.stdout, mode="r|") as tar:
            for member in tar:
                found = Path(member.name).name.startswith("vmlinuz")
                source = tar.extractfile(member) if found else None
                if source:
                    # Renamed when whole, so that what is in the cache is.
                    part = directory / "part"
                    part.write_bytes(source.read())
                    return part.rename(directory / image.replace("linux-image", "vmlinuz"))
    finally:
        # The rest is not wanted.
        unpacking.kill()
        unpacking.wait()
    raise Unavailable(f"{package} holds no vmlinuz")


def _named(beginning: str, packages: list[str]) -> list[str]:
    return [package for package in packages if package.startswith(beginning)]
