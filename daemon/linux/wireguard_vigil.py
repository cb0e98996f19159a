"""When to look at a tunnel, when its silence becomes suspicious, and every time the driver waits. No clock, no I/O."""

from __future__ import annotations

from daemon.linux.wireguard_device import PeerState

# --- time, all in seconds ---------------------------------------------------------------------------------------------
CONNECT_LOOKS = (0.01, 0.02, 0.05)  # between looks for the first handshake, the last repeated; one takes 0.5 ms
CONNECT_RETRIES = (1.0, 2.0, 4.0)  # then once more: WireGuard itself waits 5 s after a lost packet, and right after
# joining a network the first is often lost (ARP). Growing, so that a slow answer is not cut off each time
# A dead server is noticed within 6 s of traffic. Idle before: IDLE_LOOK + the probe. Busy: the last answer is seen up
# to BUSY_LOOK late, + SILENCE + the probe. After a probe that was answered: PATIENCE + the next one.
IDLE_LOOK = 5.0  # between looks at the counters while nothing is sent: 0.2 wakeups a second
BUSY_LOOK = 1.0  # while data goes out, and before anything is known
SILENCE = 2.5  # data went out and nothing came for so long: probe. That costs 240 bytes and a moment of one-way traffic
PATIENCE = 5.0  # the same right after a probe was answered: what goes one way only is not probed more often
PROBE_TRIES = (0.2, 0.3, 0.4)  # waits for the answer; a single packet may be lost. Sum 0.9
SLOW, PROBE_SLOW = 0.15, 1.0  # one more wait where the first handshake took longer than SLOW: slower is as good as dead
PROBE_LOOK = 0.05  # between looks meanwhile
KEY_LIFE = 180.0  # REJECT_AFTER_TIME of the protocol: with keepalives on, an older handshake means 60 s of failed ones
LAST_WORDS = 0.05  # after the link went, for the process to end and say why
CONNECT_KEEPALIVE = 1  # for profiles that have none, until the first handshake: something must be sent to start it

KEEPALIVE_SIZE = 32  # bytes of this message, in the counters and in the protocol; an initiation has 148


class Vigil:
    """Tells from the counters when to look again and when silence has become suspicious. No clock, no I/O."""

    def __init__(self, now: float, state: PeerState, keepalive: int, silence: float = SILENCE) -> None:
        """`silence` holds until the first answer."""
        self._keepalive, self._silence = keepalive, silence
        self._last, self._last_at = state, now
        self._handshake_at = now  # when a handshake was last seen to be new; never compared with the wall clock
        self._unanswered_since: float | None = None
        self.wait = BUSY_LOOK
        self.suspicious = False

    def look(self, now: float, state: PeerState) -> None:
        last, last_at = self._last, self._last_at
        self._last, self._last_at = state, now
        sent = is_data(state.tx - last.tx)
        if state.handshake != last.handshake:
            self._handshake_at = now
        if state.rx != last.rx:
            self._unanswered_since, self._silence = None, SILENCE
        elif sent and self._unanswered_since is None:
            self._unanswered_since = last_at  # it went out some time after the last look: suspect early, not late
        waiting = self._unanswered_since
        stale = self._keepalive > 0 and now - self._handshake_at > KEY_LIFE
        self.suspicious = stale or (waiting is not None and now - waiting >= self._silence)
        self.wait = BUSY_LOOK if sent else IDLE_LOOK
        if waiting is not None:
            self.wait = min(BUSY_LOOK, max(PROBE_LOOK, waiting + self._silence - now))


def is_data(sent: int) -> bool:
    """Whether so many bytes between two looks are more than the keepalive that WireGuard sends by itself.

    A keepalive is not answered, so its silence means nothing; a handshake initiation is, and counts.
    """
    return sent > 0 and sent != KEEPALIVE_SIZE
