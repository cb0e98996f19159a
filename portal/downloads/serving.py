"""Sends a release's file: whole or one range of it (RFC 9110, section 14), with its checksum (RFC 9530)."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import IO

from django.conf import settings
from django.db import connection
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect, StreamingHttpResponse
from django.utils.cache import get_conditional_response
from django.utils.http import content_disposition_header, http_date, parse_http_date_safe

from portal.downloads.models import Release, storage

CHUNK = 256 * 1024


class Unsatisfiable(ValueError):
    """The range begins behind the end."""


class Part:
    """So many bytes of an open file, from where it stands; closes it."""

    def __init__(self, file: IO[bytes], length: int) -> None:
        self.file, self.left = file, length

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        chunk = self.file.read(min(CHUNK, self.left))
        if not chunk:
            raise StopIteration
        self.left -= len(chunk)
        return chunk

    def close(self) -> None:
        self.file.close()


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """(first, last) byte; None: not one well-formed range, so the whole is sent. Raises Unsatisfiable."""
    found = re.fullmatch(r"bytes=([0-9]{0,18})-([0-9]{0,18})", header.strip(), re.IGNORECASE)
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:  # the last so many
        length = min(int(found[2]), size)
        if length == 0:
            raise Unsatisfiable
        return size - length, size - 1
    first = int(found[1])
    last = int(found[2]) if found[2] else size - 1
    if found[2] and last < first:
        return None
    if first >= size:
        raise Unsatisfiable
    return first, min(last, size - 1)


def _unchanged(request: HttpRequest, etag: str, modified: int) -> bool:
    """Whether If-Range, when there, names what is sent now; by a strong comparison."""
    condition = request.headers.get("If-Range", "").strip()
    if not condition:
        return True
    if condition.startswith(('"', "W/")):
        return condition == etag
    return parse_http_date_safe(condition) == modified


def send(request: HttpRequest, release: Release) -> HttpResponseBase:
    """The answer to GET or HEAD."""
    files = storage()
    name = release.file.name or ""
    direct = getattr(files, "direct_url", None)
    if direct is not None:  # S3: the bytes do not pass through here
        return HttpResponseRedirect(direct(name, release.filename, release.content_type))
    etag, modified = f'"{release.sha256}"', int(release.created_at.timestamp())
    headers = {
        "Content-Type": release.content_type,
        "Content-Disposition": content_disposition_header(True, release.filename) or "attachment",
        "X-Content-Type-Options": "nosniff",
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "ETag": etag,
        "Last-Modified": http_date(modified),
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(release.sha256)).decode()}:",
    }
    # If-Match, If-None-Match and their dates; they come before the range.
    early = get_conditional_response(request, etag=etag, last_modified=modified)
    if early is not None:
        for key in ("ETag", "Last-Modified", "Cache-Control"):
            early[key] = headers[key]
        return early
    if settings.RELEASES_ACCEL:
        # The proxy in front sends the file, ranges too: `name` is ours, 32 hexadecimal digits.
        response = HttpResponse(headers=headers)
        response["X-Accel-Redirect"] = settings.RELEASES_ACCEL.rstrip("/") + "/" + name
        return response
    status, first, last = 200, 0, release.size - 1
    asked = request.headers.get("Range", "")
    # A range is of GET alone; HEAD tells of the whole.
    if asked and request.method == "GET" and _unchanged(request, etag, modified):
        try:
            span = parse_range(asked, release.size)
        except Unsatisfiable:
            return HttpResponse(
                status=416, headers={"Content-Range": f"bytes */{release.size}", "Accept-Ranges": "bytes"}
            )
        if span is not None:
            status, (first, last) = 206, span
            headers["Content-Range"] = f"bytes {first}-{last}/{release.size}"
    headers["Content-Length"] = str(last - first + 1)
    if request.method == "HEAD":
        return HttpResponse(status=status, headers=headers)
    connection.close()  # or each slow download would keep one of the pool until its end
    file = files.open(name, "rb")
    file.seek(first)
    return StreamingHttpResponse(Part(file, last - first + 1), status=status, headers=headers)
