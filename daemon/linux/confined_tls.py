"""Whose certificate a TLS server proves to hold: the confined part of `beacons.py`, for its answers are a stranger's.

OpenSSL reads its configuration while this is imported; afterwards no file can be opened (see `confinement.py`).
"""

from __future__ import annotations

import hashlib
import socket
import ssl
from collections.abc import Sequence

CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
CONTEXT.check_hostname = False
CONTEXT.verify_mode = ssl.CERT_NONE  # the digest is pinned: neither a name, nor a date, nor an authority adds to that
CONTEXT.minimum_version = ssl.TLSVersion.TLSv1_2
hashlib.sha256()


def main(sockets: Sequence[socket.socket], argument: bytes) -> bytes:
    """The SHA-256 of the certificate (DER) of the server at the other end. `sockets`: one, connected and blocking.

    Raises OSError unless the handshake was completed, which takes the certificate's private key (RFC 8446, 4.4.3; RFC
    5246, 7.4.3 and 8.1.1).
    """
    with CONTEXT.wrap_socket(sockets[0]) as tls:
        certificate = tls.getpeercert(binary_form=True)
    if not certificate:
        raise OSError("the server has no certificate")
    return hashlib.sha256(certificate).digest()
