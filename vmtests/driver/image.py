"""The guest's first and only root: an initramfs in two archives.

The one below is Debian, made by mmdebstrap and kept in the cache under the hash of what it is made
from. What is laid over it changes with each build of healer and is packed anew each time: healer,
the program that the scenarios guard, and the files of `guest/root`. Used by `command`.
"""

from __future__ import annotations

import hashlib
import shutil
import stat
import tarfile
import tempfile
from pathlib import Path

from . import archive, debian, log
from .archive import Archive

_GUEST = Path(__file__).parents[1] / "guest"
_REPOSITORY = Path(__file__).parents[2]

# Debian's release in the guest.
_SUITE = "trixie"

# What no scenario needs, and would have to be unpacked at each boot.
_UNWANTED = (
    "boot/", "dev/", "etc/systemd/system/", "usr/bin/perl", "usr/bin/sqv", "usr/games/",
    "usr/include/", "usr/lib/apt/", "usr/lib/x86_64-linux-gnu/gconv/",
    "usr/lib/x86_64-linux-gnu/libapt-", "usr/lib/x86_64-linux-gnu/perl",
    "usr/share/bash-completion/", "usr/share/doc/", "usr/share/i18n/", "usr/share/info/",
    "usr/share/lintian/", "usr/share/locale/", "usr/share/man/", "usr/share/perl",
    "usr/share/zoneinfo/", "usr/src/", "var/cache/", "var/lib/apt/", "var/lib/dpkg/", "var/log/",
)  # fmt: skip

# What would take time at each boot and is of no use here.
_NOT_STARTED = (
    "getty@tty1.service", "ldconfig.service", "serial-getty@ttyS0.service",
    "systemd-journal-catalog-update.service", "systemd-random-seed.service",
    "systemd-tmpfiles-clean.timer", "systemd-update-done.service", "systemd-update-utmp.service",
)  # fmt: skip

# Where the programs of this repository are in the guest; that is in everybody's PATH.
PROGRAMS = "usr/local/bin"


def debian_root(cache: Path, fresh: bool) -> Path:
    """The lower archive, from the cache or made now."""
    packages = [
        line for line in (_GUEST / "packages").read_text().splitlines()
        if line and not line.startswith("#")
    ]  # fmt: skip
    recipe = [_SUITE, *packages, Path(__file__).read_text(), Path(archive.__file__).read_text()]
    key = hashlib.sha256("\0".join(recipe).encode()).hexdigest()[:16]
    kept = cache / f"root-{key}.cpio"
    if fresh or not kept.exists():
        log.say(f"making the guest's root, once: Debian {_SUITE} with {', '.join(packages)}")
        cache.mkdir(parents=True, exist_ok=True)
        for stale in cache.glob("root-*"):
            stale.unlink()
        _make_root(packages, kept)
    return kept


def _make_root(packages: list[str], result: Path) -> None:
    mirror = debian.Mirror.of_this_machine()
    with tempfile.TemporaryDirectory(prefix="healer-vmtests-") as temporary:
        tar = Path(temporary, "root.tar")
        settings = Path(temporary, "apt.conf")
        settings.write_text(debian.how_this_machine_acquires())
        debian.run(
            "mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(packages)}",
            f"--aptopt={settings}", "--dpkgopt=force-unsafe-io",
            *(f"--dpkgopt=path-exclude=/usr/share/{what}/*" for what in ("doc", "locale", "man")),
            _SUITE, str(tar), f"deb {mirror.of(_SUITE)} {_SUITE} main",
        )  # fmt: skip
        # Renamed when whole, so that what is in the cache is.
        part = result.with_suffix(".part")
        with tarfile.open(tar) as source, part.open("wb") as out:
            root = Archive(out)
            root.tar(source, lambda name: not name.startswith(_UNWANTED))
            root.close()
        part.rename(result)


def pack(root: Path, programs: dict[str, Path], configuration: Path, result: Path) -> None:
    """Writes the whole initramfs: Debian's root, and laid over it these programs by their names in
    the guest, healer's unit and its first configuration.
    """
    with result.open("wb") as out:
        with root.open("rb") as lower:
            shutil.copyfileobj(lower, out)
        upper = Archive(out)
        for name, program in programs.items():
            upper.file(f"{PROGRAMS}/{name}", program.read_bytes(), 0o755)
        for file in sorted((_GUEST / "root").rglob("*")):
            name = str(file.relative_to(_GUEST / "root"))
            if file.is_symlink():
                upper.link(name, str(file.readlink()))
            elif file.is_dir():
                upper.directory(name)
            else:
                upper.file(name, file.read_bytes(), stat.S_IMODE(file.stat().st_mode) & 0o755)
        upper.link("init", "usr/lib/systemd/systemd")
        units = "etc/systemd/system"
        for unwanted in _NOT_STARTED:
            upper.link(f"{units}/{unwanted}", "/dev/null")
        upper.directory(f"{units}/multi-user.target.wants")
        upper.link(f"{units}/multi-user.target.wants/healer.service", "../healer.service")
        # The shell is there early, and even where the boot goes wrong.
        upper.directory(f"{units}/sysinit.target.wants")
        upper.link(f"{units}/sysinit.target.wants/backdoor.service", "../backdoor.service")
        unit = _REPOSITORY / "dist/healer.service"
        upper.file(f"{units}/healer.service", unit.read_bytes())
        upper.directory("etc/healer")
        upper.file("etc/healer/config.yaml", configuration.read_bytes())
        upper.close()
