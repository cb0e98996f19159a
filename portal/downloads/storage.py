"""Where releases are kept: a folder that no page and no proxy serves by itself."""

from __future__ import annotations

from django.core.files.storage import FileSystemStorage


class Folder(FileSystemStorage):
    """Files for the portal alone; they have no address of their own."""

    def url(self, name: str | None) -> str:
        raise ValueError("releases are sent by signed links only")
