"""How the mirror is found, from what apt says on different machines."""

from __future__ import annotations

import unittest
from unittest import mock

from driver import debian
from driver.debian import Mirror, NotDebian, Unavailable

_LISTED = """\
bookworm main mirror+file:/etc/apt/mirrors/debian.list
bookworm contrib http://elsewhere.example/debian/
bookworm-security main http://mirror.example/debian-security/
nodistro main https://vendor.example/
"""


def on_machine(distribution: str, listed: str) -> Mirror:
    """What is read where /etc/os-release and apt say this."""
    release = {"ID": distribution, "VERSION_CODENAME": "bookworm"}
    with (
        mock.patch.object(debian, "_os_release", return_value=release),
        mock.patch.object(debian.platform, "machine", return_value="x86_64"),
        mock.patch.object(debian, "run", return_value=listed),
    ):
        return Mirror.of_this_machine()


class MirrorTest(unittest.TestCase):
    def test_suites_are_asked_where_the_machine_asks_its_own(self) -> None:
        mirror = on_machine("debian", _LISTED)
        self.assertEqual(mirror.of("trixie"), "mirror+file:/etc/apt/mirrors/debian.list")
        self.assertEqual(mirror.of("sid"), "mirror+file:/etc/apt/mirrors/debian.list")
        self.assertEqual(mirror.of("trixie-security"), "http://mirror.example/debian-security/")

    def test_machine_without_security_suite_says_so(self) -> None:
        mirror = on_machine("debian", _LISTED.splitlines()[0])
        with self.assertRaisesRegex(Unavailable, "no security suite"):
            mirror.of("trixie-security")

    def test_machine_whose_sources_lack_its_release_says_so(self) -> None:
        with self.assertRaisesRegex(Unavailable, "do not list Debian's bookworm"):
            on_machine("debian", "nodistro main https://vendor.example/")

    def test_other_distribution_is_told_apart(self) -> None:
        with self.assertRaises(NotDebian):
            on_machine("nixos", _LISTED)

    def test_settings_for_reaching_a_mirror_are_kept_and_no_others(self) -> None:
        dumped = (
            'Acquire::http::Proxy "http://proxy.example:3128";\n'
            'Acquire::IndexTargets::deb::Packages::Optional "0";\n'
            'APT::Update::Post-Invoke:: "rm -rf /";\n'
            'Acquire::Check-Valid-Until "false";\n'
        )
        with mock.patch.object(debian, "run", return_value=dumped):
            self.assertEqual(
                debian.how_this_machine_acquires(),
                'Acquire::http::Proxy "http://proxy.example:3128";\n'
                'Acquire::Check-Valid-Until "false";\n',
            )
