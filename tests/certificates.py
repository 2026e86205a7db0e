"""Certificates of the tests' own authority, as files."""

import ssl
from functools import cached_property
from pathlib import Path

import trustme


class Authority:
    """An authority that is known to nobody else; its certificate is in `file`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.file = folder / "ca.pem"
        self._ca = trustme.CA()
        self._ca.cert_pem.write_to_path(self.file)

    def certify(self, name: str, *hosts: str) -> Path:
        """Write a new certificate for the loopback address, or for hosts: `name.pem` with its chain, which is returned,
        and `name.key`.
        """
        issued = self._ca.issue_cert(*(hosts or ("127.0.0.1", "localhost")))
        file = self.folder / f"{name}.pem"
        file.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(file.with_suffix(".key"))
        file.with_suffix(".key").chmod(0o600)
        return file

    @cached_property
    def known(self) -> ssl.SSLContext:
        """How a client knows those that are certified."""
        return ssl.create_default_context(cafile=self.file)

    def shows(self, certificate: Path, *, asks: bool = False) -> ssl.SSLContext:
        """How a server shows a certificate, and, if it `asks`, demands one of this authority from its clients."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, certificate.with_suffix(".key"))
        if asks:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.file)
        return context
