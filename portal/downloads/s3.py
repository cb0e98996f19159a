"""Releases in an S3-compatible store. Browsers get a signed address there: the bytes do not pass through the portal.

Four requests are needed of the whole interface, so they are signed here (AWS Signature Version 4); path-style
addresses, which every compatible store knows.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import ssl
from datetime import UTC, datetime
from tempfile import TemporaryFile
from typing import IO, Any
from urllib.parse import quote, urlsplit

from django.core.files.base import File
from django.core.files.storage import Storage
from django.utils.http import content_disposition_header

ALGORITHM = "AWS4-HMAC-SHA256"
EMPTY = hashlib.sha256(b"").hexdigest()
LIFETIME = 900  # seconds in which a browser must begin; what has begun goes on
TIMEOUT = 60


def _pairs(values: dict[str, str]) -> str:
    return "&".join(f"{quote(name, safe='')}={quote(values[name], safe='')}" for name in sorted(values))


def signature(
    secret: str,
    scope: str,
    method: str,
    path: str,
    query: dict[str, str],
    headers: dict[str, str],
    digest: str,
    at: str,
) -> str:
    """`scope`: date/region/s3/aws4_request. `at`: such as 20130524T000000Z. `headers`: lower-case names, all signed."""
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    canonical = "\n".join((method, path, _pairs(query), lines, names, digest))
    text = "\n".join((ALGORITHM, at, scope, hashlib.sha256(canonical.encode()).hexdigest()))
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.new(key, text.encode(), "sha256").hexdigest()


class S3(Storage):
    """`endpoint`: such as https://s3.example; http only for a store on the same computer."""

    def __init__(self, endpoint: str, bucket: str, region: str, key: str, secret: str) -> None:
        self.endpoint, self.bucket, self.region = endpoint.rstrip("/"), bucket, region
        self.key, self.secret = key, secret
        self.url_parts = urlsplit(self.endpoint)

    def _path(self, name: str) -> str:
        return quote(f"{self.url_parts.path}/{self.bucket}/{name}", safe="/~")

    def _scope(self, at: datetime) -> str:
        return f"{at:%Y%m%d}/{self.region}/s3/aws4_request"

    def direct_url(self, name: str, filename: str, content_type: str) -> str:
        """Where to GET it within LIFETIME; the store answers ranges, with this name and type."""
        at = datetime.now(UTC)
        query = {
            "X-Amz-Algorithm": ALGORITHM,
            "X-Amz-Credential": f"{self.key}/{self._scope(at)}",
            "X-Amz-Date": f"{at:%Y%m%dT%H%M%SZ}",
            "X-Amz-Expires": str(LIFETIME),
            "X-Amz-SignedHeaders": "host",
            "response-content-disposition": content_disposition_header(True, filename) or "attachment",
            "response-content-type": content_type,
        }
        path, headers = self._path(name), {"host": self.url_parts.netloc}
        query["X-Amz-Signature"] = signature(
            self.secret, self._scope(at), "GET", path, query, headers, "UNSIGNED-PAYLOAD", query["X-Amz-Date"]
        )
        return f"{self.url_parts.scheme}://{self.url_parts.netloc}{path}?{_pairs(query)}"

    def _call(self, method: str, name: str, body: IO[bytes] | None = None, size: int = 0, digest: str = EMPTY) -> Any:
        """(status, the open answer, its connection). Raises OSError when the store refuses, 404 apart."""
        at = datetime.now(UTC)
        headers = {
            "host": self.url_parts.netloc,
            "x-amz-content-sha256": digest,
            "x-amz-date": f"{at:%Y%m%dT%H%M%SZ}",
        }
        path = self._path(name)
        made = signature(self.secret, self._scope(at), method, path, {}, headers, digest, headers["x-amz-date"])
        headers["Authorization"] = (
            f"{ALGORITHM} Credential={self.key}/{self._scope(at)},"
            f"SignedHeaders={';'.join(sorted(headers))},Signature={made}"
        )
        if body is not None:
            headers["Content-Length"] = str(size)
        host, port = self.url_parts.hostname or "", self.url_parts.port
        connection: http.client.HTTPConnection
        if self.url_parts.scheme == "https":
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT, context=context)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
        try:
            connection.request(method, path, body=body, headers=headers)
            answer = connection.getresponse()
        except http.client.HTTPException as err:
            connection.close()
            raise OSError(f"{self.endpoint}: {err!r}") from err
        except OSError:
            connection.close()
            raise
        if answer.status >= 300 and answer.status != 404:
            said = answer.read(500).decode(errors="replace")
            connection.close()
            raise OSError(f"{self.endpoint}: {method} was refused with {answer.status}: {said}")
        return answer.status, answer, connection

    def _save(self, name: str, content: File) -> str:
        digest, size = hashlib.sha256(), 0
        for chunk in content.chunks():
            digest.update(chunk)
            size += len(chunk)
        content.seek(0)
        status, _answer, connection = self._call("PUT", name, content.file, size, digest.hexdigest())
        connection.close()
        if status == 404:
            raise OSError(f"{self.endpoint}: there is no bucket {self.bucket}")
        return name

    def _open(self, name: str, mode: str = "rb") -> File:
        status, answer, connection = self._call("GET", name)
        try:
            if status == 404:
                raise FileNotFoundError(name)
            copy = TemporaryFile()  # noqa: SIM115 - whoever opened it closes it
            while chunk := answer.read(256 * 1024):
                copy.write(chunk)
            copy.seek(0)
            return File(copy, name)
        finally:
            connection.close()

    def delete(self, name: str) -> None:
        self._call("DELETE", name)[2].close()

    def exists(self, name: str) -> bool:
        status, _answer, connection = self._call("HEAD", name)
        connection.close()
        return bool(status != 404)

    def url(self, name: str | None) -> str:
        raise ValueError("releases are sent by signed links only")
