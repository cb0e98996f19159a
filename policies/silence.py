"""A tunnel that stands and is of no use (A4): traffic goes out, and nothing comes back. No clock, no I/O."""

from __future__ import annotations

from policies.counting import Counts

AFTER_S = 8.0  # of sending without an answer
LOOK_S = 3.0  # between two looks meanwhile
RARELY_S = 10.0


class Silence:
    """Told of the tunnel's counts at each look. One packet that nobody answers means nothing: sending must go on."""

    def __init__(self) -> None:
        self._last: Counts | None = None
        self._since: float | None = None  # when sending without an answer was first seen
        self._sent = 0  # looks since then that saw more being sent
        self.wait = RARELY_S  # seconds until the next look
        self.lasts = False

    def forget(self) -> None:
        """There is no tunnel, or another one."""
        self.__init__()  # type: ignore[misc]

    def look(self, now: float, counts: Counts) -> bool:
        """Whether nothing comes back. `now` in seconds that go on steadily, `counts` since any moment."""
        last, self._last = self._last, counts
        if last is None:
            return False
        if counts.rx_packets != last.rx_packets:
            self._since, self._sent, self.lasts = None, 0, False
        elif counts.tx_packets != last.tx_packets:
            self._since = now if self._since is None else self._since
            self._sent += 1
        self.lasts |= self._since is not None and self._sent > 1 and now - self._since >= AFTER_S
        self.wait = RARELY_S if self._since is None else LOOK_S
        return self.lasts
