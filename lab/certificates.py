"""Self-signed certificates, made on the spot by openssl(1)."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Certificate:
    """Files in PEM, and the SHA-256 of the certificate."""

    certificate: Path
    key: Path
    digest: bytes


def self_signed(folder: Path, name: str, names: int = 1) -> Certificate:
    """`names`: how many alternative names it has; thousands make it huge."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    config = folder / f"{name}.conf"
    alternative = "\n".join(f"DNS.{number} = host-{number}.{name}.test" for number in range(1, names + 1))
    config.write_text(
        "[req]\ndistinguished_name = who\nx509_extensions = with\nprompt = no\n"
        f"[who]\nCN = {name}\n[with]\nsubjectAltName = @names\n[names]\n{alternative}\n"
    )
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-config", config, "-keyout", key, "-out", certificate],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return Certificate(certificate, key, sha256(ssl.PEM_cert_to_DER_cert(certificate.read_text())).digest())
