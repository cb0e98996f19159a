"""The firewall on Linux: one nftables table, replaced in one transaction, then read back from the kernel."""

from __future__ import annotations

from collections.abc import Callable

from daemon.host import HostError
from daemon.linux import libnftables, nft_readback
from daemon.linux.libnftables import Nft, NftError
from daemon.linux.nft_counters import Counters
from daemon.linux.nft_readback import Table
from daemon.linux.nft_render import REMOVE, TABLE, TOLD, Ruleset, replace_cleared, ruleset, with_allowance
from daemon.linux.nft_rules import ALLOWANCE
from policies.firewall import FirewallPolicy

LISTING = f"list table {TABLE}"
EXACT = 1 << 14  # bytes: what an allowance may be off before it is set anew, where more than its fourfold is left


class NftFirewall:
    """Implements `daemon.host.Firewall`. Belongs to the event loop: nothing here waits, except for the nft program.

    `policy` is what the kernel was last seen to follow, `_table` how it looked, `_digest` identifies its rules.
    """

    def __init__(self, connect: Callable[[], Nft] = libnftables.best) -> None:
        self._connect = connect
        self._nft: Nft | None = None
        self._table: Table | None = None
        self._digest = ""
        self._counters = Counters()
        self._blocked = 0  # packets counted by tables that are gone
        self._left: Callable[[], int] | None = None  # of `allow`: bytes for a metered tunnel
        self.policy: FirewallPolicy | None = None

    async def set(self, policy: FirewallPolicy) -> None:
        """Replace our table in one transaction and read it back. Twice is harmless. Raises HostError.

        A refused transaction leaves the old rules. When only `cleared` changed, only its elements are exchanged.
        """
        wanted = _rendered(policy)
        if self._table is not None and self._digest == wanted.digest:
            expected: Table | None = self._table
            if self.policy and policy.cleared != self.policy.cleared:
                expected = await self._exchange(policy, self._table)
            if expected is not None and not await self._differences(expected):
                self._table, self.policy = expected, policy
                return
        blocked = await self.blocked()
        self._table = self.policy = None
        try:
            # What is in use must not stop for the moment until `allow`; what passes meanwhile is counted there.
            text = with_allowance(wanted.text, self._left()) if policy.metered and self._left else wanted.text
            table = nft_readback.sent(wanted.text, await self._connected().run(text))
        except NftError as err:
            raise HostError("apply the firewall", str(err)) from err
        self._blocked = blocked
        if wrong := await self._differences(table):
            raise HostError("apply the firewall", f"the kernel holds other rules than were sent: {'; '.join(wrong)}")
        self._table, self.policy, self._digest = table, policy, wanted.digest

    async def verify(self, policy: FirewallPolicy) -> bool:
        """Whether the kernel follows this policy now, in every hook, rule and element. Changes nothing."""
        table = self._table if policy == self.policy else None
        if table is None:
            text = _rendered(policy).text
            try:
                table = nft_readback.sent(text, await self._connected().run(text, check=True))
            except NftError as err:
                raise HostError("check the firewall", str(err)) from err
        return not await self._differences(table)

    async def allow(self, left: Callable[[], int]) -> None:
        """Let so many bytes more pass through a tunnel that is metered; a new table lets none. Raises HostError.

        The kernel goes on counting, and `left` is asked last: what passes meanwhile is counted twice, never not at all.
        """
        self._left = left
        try:
            limit, used = self._counters.quota(ALLOWANCE)
            wanted = left()
            off = abs(limit - used - wanted)
            if off <= min(EXACT, wanted // 4):
                return
            await self._connected().run(f"add quota {TABLE} {ALLOWANCE} {{ over {used + wanted} bytes }}\n")
        except (OSError, LookupError) as err:
            raise HostError("read the allowance", str(err)) from err
        except NftError as err:
            raise HostError("set the allowance", str(err)) from err

    async def reset(self) -> None:
        """Remove our table: the machine is open. Idempotent. Raises HostError."""
        blocked = await self.blocked()
        self._table = self.policy = None
        try:
            await self._connected().run(REMOVE)
        except NftError as err:
            raise HostError("remove the firewall", str(err)) from err
        self._blocked = blocked

    async def blocked(self) -> int:
        """Packets of this computer and its containers that were refused since this object was made. Never fails."""
        try:
            counted = self._counters.packets()
        except OSError:
            return self._blocked
        return self._blocked + sum(counted.get(name, 0) for name in TOLD)

    async def _exchange(self, policy: FirewallPolicy, table: Table) -> Table | None:
        """Exchange the elements of `cleared`; None if the table has been tampered with and must be replaced whole."""
        try:
            sent = await self._connected().run(replace_cleared(policy.cleared))
        except NftError:
            return None
        return table.with_elements("cleared", nft_readback.elements(sent, "cleared"))

    async def _differences(self, wanted: Table) -> list[str]:
        try:
            listing = await self._connected().run(LISTING)
        except NftError as err:
            return [f"the table cannot be listed ({err})"]
        return nft_readback.differences(wanted, nft_readback.read(listing, listing))

    def _connected(self) -> Nft:
        if self._nft is None:
            self._nft = self._connect()
        return self._nft


def _rendered(policy: FirewallPolicy) -> Ruleset:
    try:
        return ruleset(policy)
    except ValueError as err:
        raise HostError("apply the firewall", str(err)) from err
