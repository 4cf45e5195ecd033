"""An initramfs: the "newc" cpio format, which the kernel unpacks into its first root.

Written here, so that neither cpio nor the right to make device nodes is needed. Archives may be
appended to one another: what is packed later is laid over what is there. Used by `image`.
"""

from __future__ import annotations

import stat
import tarfile
from collections.abc import Callable
from typing import BinaryIO

_KINDS = {
    tarfile.REGTYPE: stat.S_IFREG,
    tarfile.AREGTYPE: stat.S_IFREG,
    tarfile.LNKTYPE: stat.S_IFREG,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}


class Archive:
    """A cpio archive that is being written to `out`."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._inode = 0
        self._position = 0

    def file(self, name: str, content: bytes, mode: int = 0o644) -> None:
        """A file of root's, after the directories above it."""
        self._entry(name, stat.S_IFREG | mode, content)

    def directory(self, name: str, mode: int = 0o755) -> None:
        """A directory of root's."""
        self._entry(name, stat.S_IFDIR | mode)

    def link(self, name: str, target: str) -> None:
        """A symbolic link."""
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def tar(self, tar: tarfile.TarFile, wanted: Callable[[str], bool]) -> None:
        """All of a tar archive whose name, without a leading slash, is wanted."""
        for member in tar:
            name = member.name.removeprefix(".").strip("/")
            if not name or not wanted(name):
                continue
            content = b""
            if member.issym():
                content = member.linkname.encode()
            elif member.isfile() or member.islnk():
                # Of a hard link: what it is linked to. It becomes a file of its own.
                source = tar.extractfile(member)
                content = source.read() if source else b""
            self._entry(
                name,
                _KINDS[member.type] | member.mode,
                content,
                owner=(member.uid, member.gid),
                device=(member.devmajor, member.devminor),
            )

    def close(self) -> None:
        """Ends the archive; another one may follow."""
        self._entry("TRAILER!!!", 0)

    def _entry(
        self,
        name: str,
        mode: int,
        content: bytes = b"",
        owner: tuple[int, int] = (0, 0),
        device: tuple[int, int] = (0, 0),
    ) -> None:
        self._inode += 1
        path = name.encode() + b"\0"
        # Inode, mode, uid, gid, links, time, size, device of the file, device it stands for,
        # length of the name, checksum.
        fields = (self._inode, mode, *owner, 1, 0, len(content), 0, 0, *device, len(path), 0)
        header = b"070701" + b"".join(b"%08x" % field for field in fields)
        self._write_padded(header + path)
        self._write_padded(content)

    def _write_padded(self, data: bytes) -> None:
        """Header with name, and content, each begin at a multiple of four."""
        padding = -(self._position + len(data)) % 4
        self._out.write(data + bytes(padding))
        self._position += len(data) + padding
