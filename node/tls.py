"""TLS as a client: BCP 195, version 1.2 or later (PS3.15 B.9)."""

from __future__ import annotations

import ssl

from pydantic import BaseModel, ConfigDict


class Tls(BaseModel):
    """Whom to trust and who we are. PEM files."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    ca_file: str = ""  #: who signed the peer's certificate; empty: the machine's authorities
    cert_file: str = ""  #: the node's own certificate, when the peer asks for one
    key_file: str = ""
    check_hostname: bool = True


def client_context(tls: Tls) -> ssl.SSLContext:
    """For connections that this node opens."""
    context = ssl.create_default_context(cafile=tls.ca_file or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = tls.check_hostname
    if tls.cert_file:
        context.load_cert_chain(tls.cert_file, tls.key_file or None)
    return context
