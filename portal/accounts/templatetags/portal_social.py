"""`{{ account.provider|provider_name }}`: also of a provider that is not offered any more."""

from __future__ import annotations

from allauth.socialaccount.providers import registry
from django import template

register = template.Library()


@register.filter
def provider_name(provider: str) -> str:
    found = registry.get_class(provider)
    return str(found.name) if found is not None else provider
