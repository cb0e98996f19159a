"""Asking, recording and withdrawing."""

from __future__ import annotations

from allauth.usersessions.models import UserSession
from django.db import transaction
from django.db.models import Max
from django.dispatch import Signal
from django.utils import timezone
from django.utils.translation import get_language

from portal.accounts.models import User
from portal.consents.models import Consent, Kind, Statement

REQUIRED = (Kind.PRIVACY, Kind.PORTAL)
sessions_ended = Signal()  # with `user`: whatever else keeps somebody signed in ends too


def current(kind: Kind) -> Statement:
    """The newest version's text in the language of the page, otherwise in English, otherwise in any."""
    version = Statement.objects.filter(kind=kind).aggregate(Max("version"))["version__max"]
    texts = {text.language: text for text in Statement.objects.filter(kind=kind, version=version)}
    if not texts:
        raise Statement.DoesNotExist(f"no {kind.value} statement is published: run `python -m portal migrate`")
    language = get_language() or "en"
    return texts.get(language) or texts.get(language.split("-")[0]) or texts.get("en") or next(iter(texts.values()))


def holds(user: User, kind: Kind) -> bool:
    """Whether the account accepted the newest version, and did not take it back."""
    version = Statement.objects.filter(kind=kind).aggregate(Max("version"))["version__max"]
    return user.consents.filter(statement__kind=kind, statement__version=version, withdrawn_at__isnull=True).exists()


def missing(user: User) -> list[Statement]:
    """What must be accepted before this account can be used."""
    # Two queries, for each sign-in asks this.
    newest = dict(Statement.objects.filter(kind__in=REQUIRED).order_by().values_list("kind").annotate(Max("version")))
    given = user.consents.filter(statement__kind__in=REQUIRED, withdrawn_at__isnull=True).order_by()
    held = set(given.values_list("statement__kind", "statement__version"))
    return [current(kind) for kind in REQUIRED if (kind.value, newest.get(kind.value)) not in held]


def give(user: User, statement: Statement, address: str | None) -> Consent:
    """Records a consent; one that holds already is kept as it is."""
    with transaction.atomic():
        User.objects.select_for_update().get(pk=user.pk)
        held = user.consents.filter(
            statement__kind=statement.kind, statement__version=statement.version, withdrawn_at__isnull=True
        ).first()
        return held or user.consents.create(statement=statement, address=address)


def withdraw(user: User, kind: Kind) -> int:
    """Withdraws; how many. Without a required one every session ends: the next sign-in asks again."""
    with transaction.atomic():
        count = user.consents.filter(statement__kind=kind, withdrawn_at__isnull=True).update(
            withdrawn_at=timezone.now()
        )
        if kind in REQUIRED:
            end_sessions(user)
    return count


def end_sessions(user: User) -> None:
    """Signs the account out everywhere."""
    for session in UserSession.objects.filter(user=user):
        session.end()
    sessions_ended.send(User, user=user)
