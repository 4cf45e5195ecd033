"""The archive, by what it holds byte for byte."""

from __future__ import annotations

import io
import tarfile
import unittest

from driver.archive import Archive


def entries(data: bytes) -> dict[str, tuple[int, int, bytes]]:
    """Mode, user and content by name, as the kernel reads them."""
    found, at = {}, 0
    while True:
        magic, header = data[at : at + 6], data[at + 6 : at + 110]
        assert magic == b"070701", magic
        field = [int(header[i : i + 8], 16) for i in range(0, 104, 8)]
        mode, user, size, length = field[1], field[2], field[6], field[11]
        name = data[at + 110 : at + 110 + length - 1].decode()
        begin = at + (110 + length + 3) // 4 * 4
        at = begin + (size + 3) // 4 * 4
        if name == "TRAILER!!!":
            assert at == len(data)
            return found
        found[name] = (mode, user, data[begin : begin + size])


class ArchiveTest(unittest.TestCase):
    def test_file_directory_and_link(self) -> None:
        out = io.BytesIO()
        archive = Archive(out)
        archive.directory("etc")
        archive.file("etc/motd", b"hello", 0o600)
        archive.link("init", "sbin/init")
        archive.close()
        self.assertEqual(
            entries(out.getvalue()),
            {
                "etc": (0o040755, 0, b""),
                "etc/motd": (0o100600, 0, b"hello"),
                "init": (0o120777, 0, b"sbin/init"),
            },
        )

    def test_tar_keeps_owners_and_modes_and_makes_hard_links_files(self) -> None:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            file = tarfile.TarInfo("./bin/su")
            file.mode, file.uid, file.size = 0o4755, 7, 3
            tar.addfile(file, io.BytesIO(b"ELF"))
            hard = tarfile.TarInfo("./bin/su2")
            hard.type, hard.linkname, hard.mode = tarfile.LNKTYPE, "./bin/su", 0o755
            tar.addfile(hard)
            tar.addfile(tarfile.TarInfo("./unwanted"))
        packed.seek(0)
        out = io.BytesIO()
        archive = Archive(out)
        with tarfile.open(fileobj=packed) as tar:
            archive.tar(tar, lambda name: name != "unwanted")
        archive.close()
        self.assertEqual(
            entries(out.getvalue()),
            {"bin/su": (0o104755, 7, b"ELF"), "bin/su2": (0o100755, 0, b"ELF")},
        )
