"""Answers to callers that are refused, where several services give the same."""

from __future__ import annotations

from collections.abc import Callable

from daemon.store import StoreError
from ipc.errors import Error, ServiceError


def invalid(what: str, why: str) -> ServiceError:
    """An argument is wrong."""
    return ServiceError(Error.INVALID_ARGUMENT, what, why)


def no_such_profile(name: str, what: str = "Profile") -> ServiceError:
    """No profile of that name."""
    remedy = "`tunwarden profiles list` shows them."
    return ServiceError(Error.NO_SUCH_PROFILE, what, f"no profile {name!r} is stored.", remedy)


def saving(save: Callable[[], object]) -> None:
    """Put something into the store. Raises ServiceError."""
    try:
        save()
    except StoreError as err:
        remedy = "Nothing was changed; free the disk and try again."
        raise ServiceError(Error.NOT_NOW, "Save", f"{err}.", remedy) from err
