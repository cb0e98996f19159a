"""Releases, and whom support gave an older one."""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Any, ClassVar

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.files.storage import Storage, storages
from django.core.validators import RegexValidator, URLValidator
from django.db import models, transaction
from django.db.models.signals import post_delete
from django.dispatch import receiver
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from portal.accounts import countries
from portal.subscriptions.models import Product

VERSION = RegexValidator(
    r"\A[0-9]{1,6}(\.[0-9]{1,6}){0,3}(-[0-9A-Za-z.]{1,20})?\Z",
    _("Write numbers with dots between, such as 2.11 or 3.0.1-beta.2."),
    "invalid_version",
)

HTTPS = URLValidator(schemes=["https"])


class Platform(models.TextChoices):
    WINDOWS = "windows", "Windows"
    MACOS = "macos", "macOS"
    LINUX = "linux", "Linux"
    ANDROID = "android", "Android"
    IOS = "ios", _("iPhone and iPad")


class Architecture(models.TextChoices):
    ANY = "any", _("All processors")
    X86_64 = "x86_64", _("64-bit Intel and AMD")
    ARM64 = "arm64", _("64-bit ARM")
    X86 = "x86", _("32-bit Intel and AMD")


class Package(models.TextChoices):
    """What is downloaded; of several on one platform the first here is the default."""

    STORE = "store", _("Application store")
    EXE = "exe", _("Windows installer (exe)")
    MSI = "msi", _("Windows package (msi)")
    DMG = "dmg", _("Disk image (dmg)")
    PKG = "pkg", _("macOS package (pkg)")
    DEB = "deb", _("Debian and Ubuntu package (deb)")
    RPM = "rpm", _("Fedora and SUSE package (rpm)")
    APPIMAGE = "AppImage", "AppImage"
    TAR = "tar.gz", _("Archive (tar.gz)")
    ZIP = "zip", _("Archive (zip)")
    APK = "apk", _("Android package (apk)")


# Never guessed from what is inside, or from a name.
CONTENT_TYPES = {
    Package.MSI: "application/x-msi",
    Package.DMG: "application/x-apple-diskimage",
    Package.DEB: "application/vnd.debian.binary-package",
    Package.RPM: "application/x-rpm",
    Package.TAR: "application/gzip",
    Package.ZIP: "application/zip",
    Package.APK: "application/vnd.android.package-archive",
}


class Channel(models.TextChoices):
    STABLE = "stable", _("Stable")
    BETA = "beta", _("Beta")


def check_countries(text: str) -> None:
    unknown = [code for code in text.split() if code not in countries.codes()]
    if unknown:
        raise ValidationError(
            _("Not a country code: %(code)s. Write two capital letters each, separated by spaces."),
            "invalid_country",
            {"code": unknown[0][:20]},
        )


def languages() -> list[tuple[str, str]]:
    return list(settings.LANGUAGES)  # by name in migrations: they do not change with the list


def storage() -> Storage:
    return storages["releases"]


def random_name(_release: Release, _name: str) -> str:
    """Nothing of what somebody's computer called the file becomes a path here."""
    return secrets.token_hex(16)


class Release(models.Model):
    """One package of one version. Once made, what it is does not change; a new file is a new version."""

    product = models.ForeignKey(Product, models.CASCADE, related_name="releases")
    platform = models.CharField(_("platform"), max_length=16, choices=Platform.choices)
    architecture = models.CharField(
        _("processor"), max_length=16, choices=Architecture.choices, default=Architecture.ANY
    )
    package = models.CharField(_("package"), max_length=16, choices=Package.choices)
    version = models.CharField(_("version"), max_length=60, validators=[VERSION])
    channel = models.CharField(_("channel"), max_length=16, choices=Channel.choices, default=Channel.STABLE)
    language = models.CharField(_("language"), max_length=16, blank=True, choices=languages)  # empty: all
    allowed_countries = models.TextField(_("only in these countries"), blank=True, validators=[check_countries])
    denied_countries = models.TextField(_("not in these countries"), blank=True, validators=[check_countries])
    file = models.FileField(_("file"), storage=storage, upload_to=random_name, blank=True)
    store_url = models.CharField(_("address in the store"), max_length=300, blank=True, validators=[HTTPS])
    size = models.PositiveBigIntegerField(default=0, editable=False)  # bytes
    sha256 = models.CharField(max_length=64, blank=True, editable=False)
    published = models.BooleanField(_("published"), default=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering: ClassVar = ["product", "platform", "package", "-created_at"]
        verbose_name = _("release")
        verbose_name_plural = _("releases")
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["product", "platform", "architecture", "package", "version", "channel", "language"],
                name="one_release_of_a_kind",
            )
        ]

    def __str__(self) -> str:
        return f"{self.product.name} {self.version} ({self.get_platform_display()}, {self.get_package_display()})"

    def clean(self) -> None:
        if self.package == Package.STORE:
            if not self.store_url or self.file:
                raise ValidationError(_("A release in a store has the address there, and no file."), "store_address")
        elif self.store_url or not self.file:
            raise ValidationError(_("This package needs a file, and no address in a store."), "file_missing")
        if self.file and self.file.size > settings.RELEASE_MAX_BYTES:
            raise ValidationError(
                _("The file is larger than %(most)d MB."),
                "too_large",
                {"most": settings.RELEASE_MAX_BYTES // 1_000_000},
            )

    def save(self, *args: Any, **kwargs: Any) -> None:
        if self.file and not getattr(self.file, "_committed", True):
            digest, size = hashlib.sha256(), 0
            for chunk in self.file.chunks():
                digest.update(chunk)
                size += len(chunk)
            self.sha256, self.size = digest.hexdigest(), size
        super().save(*args, **kwargs)

    @property
    def content_type(self) -> str:
        return CONTENT_TYPES.get(Package(self.package), "application/octet-stream")

    @property
    def filename(self) -> str:
        """Made of what staff chose from lists; safe in a header and on any disk."""
        parts = [self.product.slug, self.version, self.platform]
        parts += [self.architecture] if self.architecture != Architecture.ANY else []
        parts += [self.language] if self.language else []
        return f"{'-'.join(parts)}.{self.package}"

    def in_country(self, country: str) -> bool:
        """Whether it may be offered there; an unknown country (empty) is in no list."""
        allowed, denied = self.allowed_countries.split(), self.denied_countries.split()
        return country not in denied and (not allowed or country in allowed)

    def slot(self) -> tuple[str, ...]:
        """What a newer version replaces."""
        return (self.platform, self.architecture, self.package, self.channel, self.language)

    def order(self) -> tuple[list[int], bool, list[tuple[bool, int, str]]]:
        """Sorts versions: by their numbers, then what is before a release (-beta) before it."""
        numbers, _dash, before = self.version.partition("-")
        parts = [int(each) for each in numbers.split(".")]
        while parts and parts[-1] == 0:
            parts.pop()
        words = [(not word.isdigit(), int(word) if word.isdigit() else 0, word) for word in re.split(r"\.", before)]
        return parts, not before, words


@receiver(post_delete, sender=Release)
def _remove_file(sender: object, instance: Release, **kwargs: object) -> None:
    if instance.file:
        name = instance.file.name
        transaction.on_commit(lambda: storage().delete(name or ""))


class Grant(models.Model):
    """Support lets an account download a version that is not the newest."""

    release = models.ForeignKey(Release, models.CASCADE, related_name="grants")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="granted_releases")
    by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+", editable=False)
    reason = models.TextField(_("reason"))
    at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        verbose_name = _("older version for an account")
        verbose_name_plural = _("older versions for accounts")
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["release", "user"], name="one_grant_of_a_release_an_account")
        ]

    def __str__(self) -> str:
        return f"{self.release}: {self.user}"
