"""Everything that is kept about an account, as JSON; secrets (hashes, codes) left out."""

from __future__ import annotations

from typing import Any

from allauth.account.models import EmailAddress
from allauth.socialaccount.models import SocialAccount
from allauth.usersessions.models import UserSession

from portal.accounts.models import User
from portal.subscriptions.models import Share, Subscription
from portal.support import record


def document(user: User) -> dict[str, Any]:
    """Plain values; times in ISO 8601, UTC."""
    return {
        "account": {
            "email": user.email,
            "country": user.country,
            "language": user.language,
            "created_at": user.date_joined.isoformat(),
            "last_sign_in": user.last_login.isoformat() if user.last_login else None,
        },
        "emails": [
            {"email": each.email, "verified": each.verified, "primary": each.primary}
            for each in EmailAddress.objects.filter(user=user)
        ],
        "consents": [
            {
                "kind": each.statement.kind,
                "version": each.statement.version,
                "language": each.statement.language,
                "sha256": each.statement.sha256,
                "given_at": each.given_at.isoformat(),
                "address": each.address,
                "withdrawn_at": each.withdrawn_at.isoformat() if each.withdrawn_at else None,
            }
            for each in user.consents.select_related("statement")
        ],
        "phone": user.phone.number if hasattr(user, "phone") else None,
        "quick_sign_in": [
            {
                "provider": each.provider,
                "id": each.uid,
                "email": each.extra_data.get("email"),
                "since": each.date_joined.isoformat(),
            }
            for each in SocialAccount.objects.filter(user=user)
        ],
        "sessions": [
            {"address": each.ip, "user_agent": each.user_agent, "since": each.created_at.isoformat()}
            for each in UserSession.objects.filter(user=user)
        ],
        "subscriptions": [
            {
                "product": each.product.name,
                "state": each.state(),
                "terms": [
                    {
                        "plan": term.plan.name,
                        "starts_at": term.starts_at.isoformat(),
                        "ends_at": term.ends_at.isoformat(),
                    }
                    for term in each.terms.select_related("plan")
                ],
                "shared_with": [share.email for share in each.shares.all()],
            }
            for each in Subscription.objects.filter(owner=user).select_related("product")
        ],
        "devices": [
            {
                "name": each.name,
                "platform": each.platform,
                "version": each.version,
                "wireguard_key": each.wireguard_key,
                "connected_at": each.connected_at.isoformat(),
                "last_seen_at": each.last_seen_at.isoformat(),
                "address": each.address,
                "country": each.country,
                "applications": [one.application for one in each.credentials.all()],
                "commands": [
                    {"command": one.verb, "at": one.created_at.isoformat(), "state": one.state(), "answer": one.message}
                    for one in each.commands.all()
                ],
            }
            for each in user.devices.all()
        ],
        "shared_with_me": [
            {"product": each.subscription.product.name, "by": each.sender_name, "accepted_at": _time(each.accepted_at)}
            for each in Share.objects.filter(recipient=user).select_related("subscription__product")
        ],
        "older_versions": [
            {"release": str(each.release), "reason": each.reason, "at": each.at.isoformat()}
            for each in user.granted_releases.select_related("release__product")
        ],
        "support_requests": [record.of(each) for each in record.every(user)],
    }


def _time(value: Any) -> str | None:
    return value.isoformat() if value else None
