"""Files that come with messages: what may come, where it is kept, and how it is given back.

A file is judged by its name's ending and by its content, which must agree. It is kept under a random name, outside of
what the web server serves, and leaves only as a download that no browser opens.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import zipfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from django.conf import settings
from django.core.exceptions import RequestDataTooBig, ValidationError
from django.core.files.base import File
from django.core.files.storage import Storage, storages
from django.core.files.uploadhandler import FileUploadHandler, StopUpload
from django.db import transaction
from django.db.models.signals import post_delete
from django.http import FileResponse, HttpRequest
from django.utils.translation import gettext as _

from portal.support import words
from portal.support.models import Attachment, Message

log = logging.getLogger(__name__)
HEAD = 8192  # bytes that are looked at


def _text(head: bytes, file: File) -> bool:
    """Letters in UTF-8, or in UTF-16 with its mark. Programs that are text begin with #!."""
    wide = head.startswith((b"\xff\xfe", b"\xfe\xff"))
    if head.startswith(b"#!") or (b"\0" in head and not wide):
        return False
    file.seek(0)
    content = file.read()
    try:
        decoded = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        return False
    # A terminal's colours are common in reports: the escape character may stay.
    return not words.NOT_TEXT.search(re.sub(r"[\r\x0c\x1b]", "", decoded[:1_000_000]))


def _zip(head: bytes, file: File) -> bool:
    file.seek(0)
    return head.startswith((b"PK\x03\x04", b"PK\x05\x06")) and zipfile.is_zipfile(file)


def _starts(*marks: bytes) -> Callable[[bytes, File], bool]:
    return lambda head, file: head.startswith(marks)


# Ending: what the content must be.
TYPES: dict[str, Callable[[bytes, File], bool]] = {
    "txt": _text,
    "log": _text,
    "json": _text,
    "csv": _text,
    "conf": _text,
    "png": _starts(b"\x89PNG\r\n\x1a\n"),
    "jpg": _starts(b"\xff\xd8\xff"),
    "jpeg": _starts(b"\xff\xd8\xff"),
    "gif": _starts(b"GIF87a", b"GIF89a"),
    "webp": lambda head, file: head[:4] == b"RIFF" and head[8:12] == b"WEBP",
    "pdf": _starts(b"%PDF-"),
    "zip": _zip,
    "gz": _starts(b"\x1f\x8b\x08"),
    "pcap": _starts(b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\xc3\xd4", b"\x4d\x3c\xb2\xa1"),
    "pcapng": _starts(b"\x0a\x0d\x0d\x0a"),
}


def allowed() -> list[str]:
    return [each for each in settings.ATTACHMENT_TYPES if each in TYPES]


def most_bytes() -> int:
    """Of one file."""
    return int(settings.ATTACHMENT_MEGABYTES) * 1_000_000


def judge(file: File, name: str) -> None:
    """Raises ValidationError attachment_too_large, attachment_empty or attachment_type."""
    if file.size > most_bytes():
        raise ValidationError(
            _("%(name)s is too large: %(most)d MB at most."),
            "attachment_too_large",
            {"name": name, "most": settings.ATTACHMENT_MEGABYTES},
        )
    if not file.size:
        raise ValidationError(_("%(name)s is empty."), "attachment_empty", {"name": name})
    stem, _dot, ending = name.lower().rpartition(".")
    file.seek(0)
    head = file.read(HEAD)
    if not stem or ending not in allowed() or not TYPES[ending](head, file):
        raise ValidationError(
            _("%(name)s is not a file of these types: %(types)s."),
            "attachment_type",
            {"name": name, "types": ", ".join(allowed())},
        )


def judge_all(files: Sequence[File], names: list[str]) -> None:
    """Raises the same, and attachment_too_many."""
    if len(files) > settings.ATTACHMENT_COUNT:
        raise ValidationError(
            _("Too many files: %(most)d at most."), "attachment_too_many", {"most": settings.ATTACHMENT_COUNT}
        )
    for file, name in zip(files, names, strict=True):
        judge(file, name)


def store() -> Storage:
    return storages["attachments"]


class Kept:
    """Files in the store before their rows are. Left by an error, they are removed again."""

    def __init__(self, files: Iterable[File]) -> None:
        self.files = list(files)
        self.names = [words.file_name(each.name or "") for each in self.files]
        self.rows: list[Attachment] = []

    def __enter__(self) -> Kept:
        judge_all(self.files, self.names)
        try:
            for file, name in zip(self.files, self.names, strict=True):
                random = secrets.token_hex(16)
                file.seek(0)
                digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
                file.seek(0)
                stored = store().save(f"{random[:2]}/{random[2:]}", file)
                self.rows.append(Attachment(name=name, size=file.size, sha256=digest, stored=stored))
        except BaseException:
            self.remove()
            raise
        return self

    def attach(self, message: Message) -> None:
        for row in self.rows:
            row.message = message
            row.save()

    def remove(self) -> None:
        for row in self.rows:
            store().delete(row.stored)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None:
            self.remove()


def download(attachment: Attachment) -> FileResponse:
    """Bytes that a browser saves and never shows, whatever they are."""
    file = store().open(attachment.stored)
    response = FileResponse(file, as_attachment=True, filename=attachment.name, content_type="application/octet-stream")
    response.headers["Content-Security-Policy"] = "default-src 'none'; sandbox; frame-ancestors 'none'"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    response.headers["Cache-Control"] = "private, no-store"
    return response


def _removed(sender: Any, instance: Attachment, **kwargs: Any) -> None:
    """With its row goes the file: an account that is deleted leaves none."""
    stored = instance.stored

    def remove() -> None:
        try:
            store().delete(stored)
        except OSError:
            log.exception("attachment %s could not be removed", stored)

    transaction.on_commit(remove)


def connect() -> None:
    post_delete.connect(_removed, sender=Attachment)


class Bounded(FileUploadHandler):
    """The first handler of every upload: strangers send no files, accounts as many bytes as a message takes.

    Django reads a form before any page is asked; without this, anybody could fill the disk.
    """

    left: int | None = 0
    stranger = True

    def handle_raw_input(
        self, input_data: Any, META: Any, content_length: int, boundary: Any, encoding: str | None = None
    ) -> None:
        request: HttpRequest | None = self.request
        user = getattr(request, "user", None)
        self.stranger = user is None or not user.is_authenticated
        if user is None or self.stranger:
            self.left = 0
        elif user.is_staff:
            self.left = None  # releases are large
        else:
            self.left = most_bytes() * settings.ATTACHMENT_COUNT + 1_000_000

    def new_file(self, *args: Any, **kwargs: Any) -> None:
        if self.stranger:
            raise RequestDataTooBig("files are taken from accounts only")
        super().new_file(*args, **kwargs)

    def receive_data_chunk(self, raw_data: bytes, start: int) -> bytes:
        if self.left is not None:
            self.left -= len(raw_data)
            if self.left < 0:
                # The rest is read and thrown away, so that the page can say what was wrong.
                self.request.upload_too_large = True  # type: ignore[union-attr]
                raise StopUpload(connection_reset=False)
        return raw_data

    def file_complete(self, file_size: int) -> None:
        return None


def uploaded(request: HttpRequest, field: str = "files") -> list[File]:
    """The files of a form. Raises ValidationError attachment_too_large when reading was stopped."""
    files = request.FILES.getlist(field)
    if getattr(request, "upload_too_large", False):
        most = settings.ATTACHMENT_MEGABYTES * settings.ATTACHMENT_COUNT
        raise ValidationError(
            _("The files are too large: %(most)d MB at most, all together."), "attachment_too_large", {"most": most}
        )
    return list(files)
