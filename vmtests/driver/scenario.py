"""Scenarios: found by listing a directory, checked for what they may use, and run.

A scenario is a pair NAME.py and NAME.yaml. The NixOS test driver runs the same script in a machine
whose healer starts with the same configuration; so a script may use no name that one of the two
drivers does not know. Used by `session` and `command`.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from . import log
from .machine import Machine, retry

DIRECTORY = Path(__file__).parents[1] / "scenarios"

# What the NixOS test driver defines for a script, and this one as well.
GLOBALS = frozenset({"log", "machine", "retry", "start_all", "subtest"})

# The methods of a machine that both drivers have.
METHODS = frozenset({
    "copy_from_host_via_shell", "crash", "execute", "fail", "get_console_log", "get_unit_info",
    "get_unit_property", "reboot", "require_unit_state", "shutdown", "sleep", "start", "start_job",
    "stop_job", "succeed", "systemctl", "wait_for_closed_port", "wait_for_console_text",
    "wait_for_file", "wait_for_open_port", "wait_for_open_unix_socket", "wait_for_shutdown",
    "wait_for_unit", "wait_until_fails", "wait_until_succeeds",
})  # fmt: skip

# The path of a program, but for the two that NixOS has as well.
_PROGRAM_PATH = re.compile(r"(?<![\w.-])/(?!bin/sh\b|usr/bin/env\b)(?:usr/)?s?bin/[\w.-]+")

# A line of a script; where it is missing, each kernel has to show the same.
_NEWEST_ONLY = re.compile(r"^# newest kernel:", re.MULTILINE)


@dataclass(frozen=True)
class Scenario:
    """One scenario."""

    name: str
    script: Path
    configuration: Path

    def concerns(self, newest: bool) -> bool:
        """Whether it is to be run on a kernel that is the newest one, or is not."""
        return newest or not _NEWEST_ONLY.search(self.script.read_text())

    def run(self, machine: Machine) -> None:
        """Runs it to its end; whatever it raises is its failure."""
        code = compile(self.script.read_text(), str(self.script), "exec")
        exec(code, _globals(machine))


def all_in(directory: Path = DIRECTORY) -> list[Scenario]:
    """The scenarios of a directory; first the one that wants a guest that nobody touched."""
    scripts = sorted(directory.glob("*.py"), key=lambda script: (script.stem != "boot", script))
    return [Scenario(script.stem, script, script.with_suffix(".yaml")) for script in scripts]


def faults(scenario: Scenario) -> list[str]:
    """What keeps a scenario from being run by both drivers."""
    found = []
    if not scenario.configuration.exists():
        found.append(f"{scenario.configuration.name} is missing")
    tree = ast.parse(scenario.script.read_text())
    # A name that the script itself defines anywhere is its own.
    own = {
        name
        for node in ast.walk(tree)
        for name in _defined_by(node)
    }  # fmt: skip
    for node in ast.walk(tree):
        where = f"line {getattr(node, 'lineno', 0)}"
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                if name not in GLOBALS | own and not hasattr(builtins, name):
                    found.append(f"{where}: {name} is not known to both drivers")
            case ast.Attribute(value=ast.Name(id="machine"), attr=name):
                if name not in METHODS:
                    found.append(f"{where}: machine.{name} is not known to both drivers")
            case ast.Constant(value=str(text)):
                for path in _PROGRAM_PATH.findall(text):
                    found.append(f"{where}: {path} is not at that place on NixOS")
    return found


def _defined_by(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
            yield name
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            for alias in names:
                yield (alias.asname or alias.name).split(".")[0]
        case ast.ExceptHandler(name=str(name)):
            yield name


def _globals(machine: Machine) -> dict[str, object]:
    """What a script finds defined."""
    return {
        "log": SimpleNamespace(info=log.say, warning=log.say, error=log.say),
        "machine": machine,
        "retry": retry,
        "start_all": machine.start,
        "subtest": subtest,
    }


@contextlib.contextmanager
def subtest(name: str) -> Iterator[None]:
    """A named part of a scenario."""
    begin = time.monotonic()
    log.say(f"  {name}")
    try:
        yield
    except Exception:
        log.say(f"  FAILED after {time.monotonic() - begin:.1f} s: {name}")
        raise
    log.say(f"  ok, {time.monotonic() - begin:.1f} s: {name}")
