"""Makes the kernel follow a policy, through two layers that are independent: the firewall and the routing.

Narrowing, the firewall goes first; widening, it goes last. If one layer refuses, the other one is still set: either
alone keeps packets in.
"""

from __future__ import annotations

from collections.abc import Callable

from daemon.host import Firewall, HostError, Routes
from policies.firewall import FirewallPolicy, without_beside
from policies.states import Cause


class EnforceError(Exception):
    """A layer refused. `cause` names the first one, `str()` says everything that went wrong."""

    def __init__(self, cause: Cause, text: str) -> None:
        super().__init__(text)
        self.cause = cause


class Enforcer:
    """Owns the two layers. `enforced` is the policy that the kernel has confirmed, None when it has not."""

    def __init__(self, firewall: Firewall, routes: Routes) -> None:
        self._firewall, self._routes = firewall, routes
        self.enforced: FirewallPolicy | None = None
        self.left: Callable[[], int] = lambda: 0  # bytes that may pass through a metered tunnel
        self._open: frozenset[str] = frozenset()  # the links that the firewall was last told to clear
        self._beside: frozenset[str] = frozenset()  # and over which excluded traffic may leave
        self._stands: FirewallPolicy | None = None  # what the firewall alone was last seen to follow

    @property
    def blocking(self) -> bool:
        """Whether the kernel has confirmed rules that let nothing out but the tunnel and its server.

        The firewall alone does that; routes that were refused are a warning, for the second layer is missing.
        """
        return self._stands is not None and self._stands.closed

    async def set(self, policy: FirewallPolicy) -> bool:
        """Whether this is another policy. One that is in force already is read back, and repaired where it is not.

        Raises EnforceError; then neither layer was widened by more than it was.
        """
        another, self.enforced = policy != self.enforced, None
        layers = [(Cause.FIREWALL_FAILED, self._firewall.set), (Cause.ROUTES_FAILED, self._routes.set)]
        beside = policy.beside | policy.subnet_links
        same = self._stands is not None and policy.subnets == self._stands.subnets
        tight = policy.tunnel is None and policy.cleared <= self._open and not policy.tree
        narrows = tight and (beside <= self._open or (beside <= self._beside and same))
        if not narrows:
            layers.reverse()
        failures: list[tuple[Cause, HostError]] = []
        for cause, apply in layers:
            if failures and not narrows:  # never widen the second layer after the first has refused
                if not tight:
                    break
                set_so, beside = without_beside(policy), frozenset()
            else:
                set_so = policy
            try:
                await apply(set_so)
            except HostError as err:
                failures.append((cause, err))
                if cause is Cause.FIREWALL_FAILED:
                    await self._look()  # a refused transaction leaves the old rules
            else:
                if cause is Cause.FIREWALL_FAILED:
                    self._open, self._beside, self._stands = set_so.cleared, beside, set_so
        if policy.metered and not failures:
            try:
                await self._firewall.allow(self.left)
            except HostError as err:  # what was allowed before still is; of a new table, nothing
                failures.append((Cause.FIREWALL_FAILED, err))
        if failures:
            raise EnforceError(failures[0][0], "; ".join(str(err) for _, err in failures))
        self.enforced = policy
        return another

    async def intact(self) -> bool:
        """Whether both layers still are as they were confirmed. What cannot be looked at is not."""
        await self._look()
        if self.enforced is None or self._stands != self.enforced:
            return False
        try:
            return await self._routes.verify(self.enforced)
        except HostError:
            return False

    async def _look(self) -> None:
        """Whether the firewall still follows what it was last seen to follow: `blocking` is never said from memory."""
        try:
            if self._stands is not None and not await self._firewall.verify(self._stands):
                self._stands = None
        except HostError:
            self._stands = None

    async def reset(self) -> None:
        """Open the machine: on the way out of an unprotected state only. Raises HostError."""
        self.enforced = self._stands = None
        await self._routes.reset()
        await self._firewall.reset()
