"""Debian's archive, through the apt of this machine, in a configuration of its own.

Which mirror to ask is read from the apt sources of the machine; only the suites are others. Nothing
of the machine's own apt state is changed. Used by `kernels` and `image`.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class Unavailable(Exception):
    """Something that is needed cannot be had here; the text says what, and the way out."""


class NotDebian(Unavailable):
    """This machine is not one that the guests and their kernels can be had on."""


@dataclass(frozen=True)
class Mirror:
    """Where this machine gets its Debian packages."""

    archive: str
    security: str | None

    @staticmethod
    def of_this_machine() -> Mirror:
        """Reads it from the apt sources."""
        release = _os_release()
        codename = release.get("VERSION_CODENAME", "")
        if release.get("ID") != "debian" or platform.machine() != "x86_64":
            raise NotDebian(
                "the virtual machines are Debian's for x86_64, made by the apt of such a machine"
            )
        listed = run(
            "apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)",
            "Identifier: Packages",
        )  # fmt: skip
        places = {
            suite: place
            for suite, component, place in (line.split(" ", 2) for line in listed.splitlines())
            if component == "main"
        }
        archive = places.get(codename, places.get("stable"))
        if archive is None:
            raise Unavailable(f"the apt sources of this machine do not list Debian's {codename}")
        security = places.get(f"{codename}-security", places.get("stable-security"))
        return Mirror(archive, security)

    def of(self, suite: str) -> str:
        """Where this suite is."""
        if suite.endswith("-security"):
            if self.security is None:
                raise Unavailable("the apt sources of this machine list no security suite")
            return self.security
        return self.archive


class Apt:
    """An apt that knows one suite and no installed package; its state is below `directory`."""

    def __init__(self, directory: Path, mirror: Mirror, suite: str) -> None:
        self._directory = directory
        for below in ("state/lists/partial", "cache/archives/partial"):
            (directory / below).mkdir(parents=True, exist_ok=True)
        (directory / "state/status").touch()
        sources = directory / "sources.list"
        # Debian's package lists alone: neither translations nor descriptions of programs.
        options = f"signed-by={KEYRING} arch=amd64 target=Packages"
        sources.write_text(f"deb [{options}] {mirror.of(suite)} {suite} main\n")
        configuration = directory / "apt.conf"
        configuration.write_text(
            how_this_machine_acquires() + f'Dir::State "{directory}/state";\n'
            f'Dir::State::status "{directory}/state/status";\n'
            f'Dir::Cache "{directory}/cache";\n'
            f'Dir::Etc::SourceList "{sources}";\n'
            'Dir::Etc::SourceParts "/dev/null";\n'
            # The hooks of the machine's own apt have nothing to do with this one.
            'Dir::Etc::Main "/dev/null";\n'
            'Dir::Etc::Parts "/dev/null";\n'
            'Acquire::Languages "none";\n'
            # Another user may not be let into this directory.
            'APT::Sandbox::User "root";\n'
        )
        self._environment = {**os.environ, "APT_CONFIG": str(configuration)}
        self._run("apt-get", "-qq", "update")

    def dependencies(self, package: str) -> list[str]:
        """The names that the newest version of this package depends on."""
        shown = self._run("apt-cache", "show", "--no-all-versions", package)
        for line in shown.splitlines():
            if line.startswith("Depends: "):
                return [word.split()[0] for word in line.removeprefix("Depends: ").split(", ")]
        return []

    def download(self, package: str) -> Path:
        """Fetches a package, checked, and returns the file."""
        before = set(self._packages())
        self._run("apt-get", "-qq", "download", package, cwd=self._directory)
        (file,) = set(self._packages()) - before
        return file

    def _packages(self) -> Iterator[Path]:
        return self._directory.glob("*.deb")

    def _run(self, *command: str, cwd: Path | None = None) -> str:
        return run(*command, cwd=cwd, environment=self._environment)


def how_this_machine_acquires() -> str:
    """The settings of this machine's apt for reaching a mirror: proxies, checks, retries."""
    kept = re.compile(r"Acquire::(?!IndexTargets|Changelogs|Languages|cdrom)")
    lines = run("apt-config", "dump").splitlines()
    return "".join(f"{line}\n" for line in lines if kept.match(line))


def run(*command: str, cwd: Path | None = None, environment: dict[str, str] | None = None) -> str:
    """Runs a program to its end and returns what it prints."""
    try:
        ended = subprocess.run(
            command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=1200,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise Unavailable(f"{command[0]} is missing: .ci/set-up test installs it") from error
    if ended.returncode != 0:
        said = (ended.stderr or ended.stdout).strip()
        raise Unavailable(f"`{' '.join(command)}` failed with status {ended.returncode}: {said}")
    return ended.stdout


def _os_release() -> dict[str, str]:
    try:
        text = Path("/etc/os-release").read_text()
    except FileNotFoundError:
        return {}
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {key: value.strip('"') for key, value in pairs}
