"""The command line: gathers what the virtual machines need, runs a session for each kernel, and
says how many scenarios passed. Used by `vmtests/run`.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import image, kernels, log, qemu, scenario
from .debian import Mirror, NotDebian, Unavailable
from .scenario import Scenario
from .session import Session

_REPOSITORY = Path(__file__).parents[2]


def main() -> int:
    """Runs it; 0 where all passed, 1 where not, 69 where they cannot be run."""
    arguments = _parse()
    # As Ctrl-C: what was started is ended, what was made is removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _run(arguments)
    except NotDebian as error:
        print(f"{'skipped' if arguments.where_possible else 'error'}: {error}", file=sys.stderr)
        return 0 if arguments.where_possible else 69
    except Unavailable as error:
        print(f"error: {error}", file=sys.stderr)
        return 69
    except KeyboardInterrupt:
        log.say("interrupted")
        return 130


def _run(arguments: argparse.Namespace) -> int:
    chosen = _chosen(scenario.all_in(), arguments.scenario)
    faults = [f"{one.script}: {fault}" for one in chosen for fault in scenario.faults(one)]
    if faults:
        raise Unavailable("\n".join(faults))
    if arguments.list:
        for one in chosen:
            print(f"{one.name:<16} {'every' if one.concerns(newest=False) else 'newest'} kernel")
        return 0
    Mirror.of_this_machine()
    programs = {"healer": arguments.healer, "guarded": arguments.guarded}
    for program in programs.values():
        if not program.exists():
            raise Unavailable(f"{program} is missing: `make vmtest` builds it")
    oldest = kernels.RELEASES[0]
    asked = {oldest.name if name == "oldest" else name for name in arguments.kernel}
    releases = [one for one in kernels.RELEASES if one.name in asked]
    cache = arguments.cache
    available = [kernels.fetch(one, cache / "kernels", arguments.fresh) for one in releases]
    root = image.debian_root(cache, arguments.fresh)
    with tempfile.TemporaryDirectory(prefix="healer-vmtests-") as temporary:
        initramfs = Path(temporary, "initramfs")
        image.pack(root, programs, scenario.DIRECTORY / "boot.yaml", initramfs)
        accelerator = arguments.accelerator or qemu.accelerator(
            available[0], initramfs, f"/{image.PROGRAMS}/healer"
        )
        hardware = qemu.Hardware(accelerator)
        sessions = [
            Session(kernel, initramfs, hardware, arguments.results / kernel.release.name)
            for kernel in available
        ]
        newest = kernels.RELEASES[-1]
        _run_sessions(sessions, chosen, newest, arguments.jobs, bool(arguments.scenario))
    for session in sessions:
        for name in session.failed:
            log.say(f"FAILED: {name} on Linux {session.kernel.version}")
    passed = sum(len(session.passed) for session in sessions)
    failed = sum(len(session.failed) for session in sessions)
    print(f"{passed} passed, {failed} failed", flush=True)
    return 1 if failed or not passed else 0


def _run_sessions(
    sessions: list[Session],
    chosen: list[Scenario],
    newest: kernels.Release,
    jobs: int,
    by_name: bool,
) -> None:
    """A thread for each kernel, so many at a time. What was asked for by name is run on each."""
    with ThreadPoolExecutor(jobs) as threads:
        running = [
            threads.submit(
                session.run,
                [
                    one for one in chosen
                    if by_name or one.concerns(newest=session.kernel.release == newest)
                ],
            )
            for session in sessions
        ]  # fmt: skip
        try:
            for one in running:
                one.result()
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            for session in sessions:
                session.end()
            raise


def _chosen(there: list[Scenario], names: list[str]) -> list[Scenario]:
    unknown = set(names) - {one.name for one in there}
    if unknown:
        raise Unavailable(f"no such scenario: {', '.join(sorted(unknown))}; --list tells them")
    return [one for one in there if not names or one.name in names]


def _parse() -> argparse.Namespace:
    names = [release.name for release in kernels.RELEASES]
    target = Path(os.environ.get("CARGO_TARGET_DIR") or _REPOSITORY / "target")
    parser = argparse.ArgumentParser(
        prog="vmtests/run", description="Runs the scenarios in virtual machines, on real kernels."
    )
    parser.add_argument("scenario", nargs="*", help="run these alone, on each kernel")
    parser.add_argument("--list", action="store_true", help="list the scenarios and end")
    parser.add_argument(
        "--kernel", action="append", choices=["oldest", *names], help="this one; may be repeated"
    )
    parser.add_argument(
        "--where-possible", action="store_true", help="end well where this machine is not Debian's"
    )
    parser.add_argument("--fresh", action="store_true", help="fetch kernels and Debian anew")
    parser.add_argument("--jobs", type=int, default=2, help="so many machines at a time")
    parser.add_argument("--accelerator", help="QEMU's, instead of what a probe finds")
    parser.add_argument("--healer", type=Path, default=_built(target, "healer"), help="the binary")
    parser.add_argument(
        "--guarded", type=Path, default=_built(target, "examples/service"), help="what is guarded"
    )
    parser.add_argument("--results", type=Path, default=target / "vmtests", help="directory")
    parser.add_argument("--cache", type=Path, default=_cache(), help="directory")
    arguments = parser.parse_args()
    arguments.kernel = arguments.kernel or names
    return arguments


def _built(target: Path, program: str) -> Path:
    """What was built last for a machine of any kind, with whichever C library."""
    found = sorted(target.glob(f"*/release/{program}"), key=lambda file: file.stat().st_mtime)
    return found[-1] if found else target / "release" / program


def _cache() -> Path:
    """What is kept from run to run: in the first of the usual places that may be written to."""
    places = [Path(os.environ.get("XDG_CACHE_HOME") or "/var/cache"), Path.home() / ".cache"]
    usable = (place for place in places if os.access(place, os.W_OK))
    return next(usable, places[-1]) / "healer/vmtests"
