"""What in `tolsey.toml` is about TLS: our own certificate towards clients, and whom an upstream is known by."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tolsey import config_lines as lines
from tolsey.config_lines import Table

HTTP_1_1: Final = ["http/1.1"]


@dataclass(frozen=True, slots=True)
class Tls:
    """Files in PEM, absolute: our `certificate` with its chain, its private `key` (None: in the same file), and `ca`,
    the authorities that the other side is known by (None: the system's).
    """

    certificate: Path | None
    key: Path | None
    ca: Path | None

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them."""
        return tuple(path for path in (self.certificate, self.key, self.ca) if path is not None)

    def server(self) -> ssl.SSLContext:
        """For the data port. Raises `OSError` for files that cannot be used."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.load(context)
        context.set_alpn_protocols(HTTP_1_1)
        return context

    def client(self) -> ssl.SSLContext:
        """For calls to an upstream. Raises `OSError` for files that cannot be used."""
        context = ssl.create_default_context(cafile=self.ca)
        self.load(context)
        return context

    def load(self, context: ssl.SSLContext) -> None:
        """Show this certificate on the connections that a context makes from now on. Raises `OSError`."""
        if self.certificate is not None:
            # Without a password OpenSSL would ask the terminal for that of an encrypted key.
            context.load_cert_chain(self.certificate, self.key, password="")


def read_server_tls(table: Table, base: Path, *, uses: bool) -> Tls | None:
    """The `tls` of `[server]`. What the files are like is looked at if this config `uses` them."""
    return _read(table, base, lambda section: section.need("certificate", lines.file_in(base), base), Tls.server, uses)


def read_upstream_tls(table: Table, base: Path, url: str, *, uses: bool) -> Tls | None:
    """The `tls` of an upstream at `url`. What the files are like is looked at if this config `uses` them."""
    if table.has("tls") and url.startswith("http:"):
        table.complain("tls", "is for an upstream at https://")
    return _read(
        table, base, lambda section: section.read("certificate", lines.file_in(base), None), Tls.client, uses, ca=True
    )


def _read(
    table: Table,
    base: Path,
    certificate: Callable[[Table], Path | None],
    context: Callable[[Tls], ssl.SSLContext],
    uses: bool,
    *,
    ca: bool = False,
) -> Tls | None:
    if not table.has("tls"):
        return None
    section = table.table("tls")
    if not table.good("tls"):
        return None
    tls = Tls(
        certificate=certificate(section),
        key=section.read("key", lines.file_in(base), None),
        ca=section.read("ca", lines.file_in(base), None) if ca else None,
    )
    if tls.key is not None and tls.certificate is None:
        section.complain("key", "is of no use without a certificate")
    section.done()
    if uses and not table.problems.in_order():
        try:
            context(tls)
        except OSError as error:
            table.complain("tls", f"the files cannot be used: {_reason(tls, error)}")
    return tls


def _reason(tls: Tls, error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        # OpenSSL's own words, such as KEY_VALUES_MISMATCH.
        words = (error.reason or "").lower().replace("_", " ")
        return words or "they are not PEM, lack a certificate or a key, or the key has a password"
    missing = [str(path) for path in tls.files if not path.is_file()]
    return f"{error.strerror}: {', '.join(missing)}" if missing else str(error.strerror)
