"""Sample releases and servers for the demo: addresses for documentation (RFC 5737), files that say what they are."""

from __future__ import annotations

import base64
import hashlib

from django.core.files.base import ContentFile

from portal.downloads.models import Architecture, Package, Platform, Release
from portal.subscriptions.models import Plan, Product
from portal.vpn.models import Server

PACKAGES = (
    (Platform.WINDOWS, Architecture.X86_64, Package.EXE, "3.1"),
    (Platform.MACOS, Architecture.ANY, Package.DMG, "3.1"),
    (Platform.LINUX, Architecture.X86_64, Package.DEB, "3.1"),
    (Platform.LINUX, Architecture.X86_64, Package.RPM, "3.1"),
    (Platform.LINUX, Architecture.X86_64, Package.DEB, "2.11"),
    (Platform.ANDROID, Architecture.ANY, Package.APK, "3.1"),
)
SERVERS = (
    ("se-mma-1", "SE", "Malmö", "198.51.100.10", Plan.Tier.FREE, "everyday"),
    ("de-ber-1", "DE", "Berlin", "198.51.100.20", Plan.Tier.PREMIUM, "everyday p2p"),
    ("jp-tyo-1", "JP", "Tokyo", "198.51.100.30", Plan.Tier.PREMIUM, "streaming"),
)


def add() -> None:
    """Once: what is there already stays as it is."""
    for product in Product.objects.all():
        if Release.objects.filter(product=product).exists():
            continue
        for platform, architecture, package, version in PACKAGES:
            Release.objects.create(
                product=product,
                platform=platform,
                architecture=architecture,
                package=package,
                version=version,
                denied_countries="CN" if platform == Platform.ANDROID else "",
                file=ContentFile(f"a sample, not {product.name} {version}\n".encode(), name="sample"),
                published=True,
            )
        Release.objects.create(
            product=product,
            platform=Platform.IOS,
            package=Package.STORE,
            version="3.1",
            store_url="https://apps.apple.com/",
            published=True,
        )
    for name, country, city, host, tier, tags in SERVERS:
        key = base64.b64encode(hashlib.sha256(f"sample {name}".encode()).digest()).decode()
        fields = {"country": country, "city": city, "host": host, "tier": tier, "tags": tags, "public_key": key}
        Server.objects.get_or_create(name=name, defaults=fields)
