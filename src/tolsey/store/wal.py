"""The write-ahead log beside a SQLite ledger, by a descriptor of its own (https://www.sqlite.org/walformat.html).

Its own, since SQLite's cannot be had from Python. It is for this file alone: to close any descriptor of the ledger
file, or of the index beside it, would give up the locks that SQLite holds there.
"""

import errno
import os
from bisect import bisect_left
from pathlib import Path
from typing import Final

MOST_KEPT_BYTES: Final = 64 * 1024 * 1024
"""To how much of a WAL that had grown larger SQLite cuts it back when it begins it anew."""

_PIECE: Final = 1024 * 1024
_HEADER: Final = 32
_FRAME_HEADER: Final = 24
_SALTS: Final = 8


class Wal:
    """The log as it is on disk. Once all of it is copied into the ledger file it is begun anew: overwritten, and not
    made again, as a sync of a file that does not grow is quicker (docs/decisions/0035).
    """

    def __init__(self, ledger: Path) -> None:
        """Open it; a connection to the ledger is open already."""
        self.descriptor = os.open(f"{ledger}-wal", os.O_RDWR | os.O_CLOEXEC)
        self.in_doubt = False
        """Whether a sync of it has failed, and nothing was written again since."""
        self._copied = (b"", 0)

    def sync(self) -> None:
        """Have on disk what was written, by whomever. Blocks; raises OSError: then it is in doubt."""
        try:
            os.fdatasync(self.descriptor)
        except OSError:
            self.in_doubt = True
            raise

    def write_again(self) -> None:
        """Write all of it once more, as it is, for a sync of what is in doubt: Linux says of what it could not write
        that it failed once, and takes it for written from then on (fsync(2)). The caller has the turn. Blocks; raises
        OSError.
        """
        for at in range(0, os.fstat(self.descriptor).st_size, _PIECE):
            piece = os.pread(self.descriptor, _PIECE, at)
            if os.pwrite(self.descriptor, piece, at) < len(piece):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.in_doubt = False

    def waiting(self) -> int:
        """How many bytes are not copied into the ledger file yet, as far as this process knows."""
        salts, used = self._used()
        before, copied = self._copied
        return used - copied if salts == before else used

    def copied(self) -> None:
        """Everything that is in it now was copied."""
        self._copied = self._used()

    def _used(self) -> tuple[bytes, int]:
        """The salts that were drawn when it was last begun anew, and how many bytes were written since: each frame has
        the salts of its time, and behind the last one stand older frames.
        """
        header = os.pread(self.descriptor, _HEADER, 0)
        if len(header) < _HEADER:
            return b"", 0
        salts = header[16 : 16 + _SALTS]
        size = int.from_bytes(header[8:12], "big") + _FRAME_HEADER

        def is_older(frame: int) -> bool:
            return os.pread(self.descriptor, _SALTS, _HEADER + frame * size + 8) != salts

        frames = bisect_left(range((os.fstat(self.descriptor).st_size - _HEADER) // size), True, key=is_older)
        return salts, _HEADER + frames * size

    def close(self) -> None:
        """Let go of it."""
        os.close(self.descriptor)
