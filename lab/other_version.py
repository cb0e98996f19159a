"""The daemon of another version, which writes other rules: `python -I -m lab.other_version [firewall|routing]`.

Only for tests of upgrades: what the one leaves in the kernel is not what the other expects, in either layer.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from daemon import __main__ as daemon
from daemon.linux import nft_rules, route_plan
from lab import one_layer
from policies.firewall import MARK, FirewallPolicy


def main() -> None:
    output = nft_rules._output

    def other_output(policy: FirewallPolicy) -> Iterator[str]:
        yield 'oifname "lo" counter'
        yield from output(policy)

    nft_rules._output = other_output
    route_plan.OURS = route_plan.Rule(route_plan.PRIORITY + 1, MARK, 0xFFFFFFFF, route_plan.INVERT)
    one_layer.main() if len(sys.argv) > 1 else daemon.main()


if __name__ == "__main__":
    main()
