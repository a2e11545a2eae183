"""TLS 1.2 or later with the suites of BCP 195 (RFC 8996, 9325; PS3.15 B.12), as a client and as a server."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from node import log

#: of TLS 1.2: forward secrecy and authenticated encryption only (RFC 9325 4.2); those of TLS 1.3 are all like that
SUITES = "ECDHE+AESGCM:ECDHE+CHACHA20"

_log = log.get(__name__)

#: what OpenSSL calls it → what it means to an operator
_WORDS = {
    "WRONG_VERSION_NUMBER": "the peer does not speak TLS",
    "HTTP_REQUEST": "the peer does not speak TLS",
    "RECORD_LAYER_FAILURE": "the peer does not speak TLS",
    "UNSUPPORTED_PROTOCOL": "the peer speaks no TLS 1.2 or later",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the peer speaks no TLS 1.2 or later",
    "NO_SHARED_CIPHER": "no cipher suite in common",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "the peer found no cipher suite in common, or wants a certificate",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the peer shows no certificate",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the peer wants a certificate",
    "TLSV1_ALERT_UNKNOWN_CA": "the peer does not know who signed our certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "our certificate has expired",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the peer does not take our certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the peer does not take our certificate",
}


class Tls(BaseModel):
    """Whom to trust and who we are. PEM files."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    ca_file: str = ""  #: who signed the peer's certificate; empty: the machine's authorities
    cert_file: str = ""  #: the node's own certificate, when the peer asks for one
    key_file: str = ""
    check_hostname: bool = True


def client_context(tls: Tls) -> ssl.SSLContext:
    """For connections that this node opens. Raises OSError (ssl.SSLError is one) when a file can't be used."""
    context = ssl.create_default_context(cafile=tls.ca_file or None)
    _keep_to_bcp_195(context)
    context.check_hostname = tls.check_hostname
    if tls.cert_file:
        context.load_cert_chain(tls.cert_file, tls.key_file or None)
    return context


def heard_context(tls: Tls) -> tuple[ssl.SSLContext, list[str]]:
    """The same, and where the words go when TLS fails: for a library that keeps the reason to itself (pynetdicom)."""
    heard: list[str] = []

    @contextmanager
    def listening() -> Iterator[None]:
        try:
            yield
        except ssl.SSLError as why:
            heard.append(words(why))
            raise

    class Heard(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            with listening():
                super().do_handshake(block)

        def read(self, len: int = 1024, buffer: Any = None) -> Any:  # with TLS 1.3 a refused certificate is only told here
            with listening():
                return super().read(len, buffer)

    context = client_context(tls)
    context.sslsocket_class = Heard
    return context, heard


def server_context(cert_file: Path, key_file: Path, ca_file: Path | None = None) -> ssl.SSLContext:
    """For connections that come; with `ca_file` a peer must show a certificate of that authority.

    Files that are replaced are read with the next connection; while they do not fit together, those before stay in use.
    Raises OSError (ssl.SSLError is one) when a file can't be used.
    """
    files = [cert_file, key_file, *([ca_file] if ca_file else [])]

    def loaded() -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca_file)
        _keep_to_bcp_195(context)
        context.verify_mode = ssl.CERT_REQUIRED if ca_file else ssl.CERT_NONE
        context.load_cert_chain(cert_file, key_file)
        return context

    seen, current = _stamps(files), loaded()

    def newest(connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        """Called within every handshake, also where the peer names no server."""
        nonlocal seen, current
        try:
            if (now := _stamps(files)) != seen:
                seen = now
                current = loaded()
                _log.info("certificates were replaced and are read again")
        except OSError as why:
            _log.warning(
                "certificates were replaced but can't be used; those before stay in use", extra={"where": log.where_it_failed(why)}
            )
        connection.context = current

    first = loaded()
    first.sni_callback = newest
    return first


def expires(cert_file: Path) -> datetime:
    """When a certificate ends (the first of the file, which is the node's own). Raises OSError or ValueError."""
    from cryptography import x509

    return x509.load_pem_x509_certificate(cert_file.read_bytes()).not_valid_after_utc


def words(why: ssl.SSLError) -> str:
    """Why TLS failed, without a word that came from the peer."""
    if isinstance(why, ssl.SSLCertVerificationError):
        return f"the peer's certificate is not accepted: {why.verify_message}"
    if isinstance(why, ssl.SSLEOFError):
        return "the peer closed the connection within the handshake"
    return _WORDS.get(why.reason or "", (why.reason or "TLS failed").replace("_", " ").lower())


def _keep_to_bcp_195(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(SUITES)
    context.options |= ssl.OP_NO_RENEGOTIATION


def _stamps(files: list[Path]) -> list[tuple[int, int, int]]:
    return [(found.st_ctime_ns, found.st_ino, found.st_size) for found in (file.stat() for file in files)]
