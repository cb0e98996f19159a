"""When to look at a tunnel, when its silence becomes suspicious, and every time the driver waits. No clock, no I/O.

What proves that the server hears us is an answer to what we sent: to an echo request (ICMP) at one of its resolvers,
or to a handshake. What merely comes in proves nothing: a server that no longer hears us goes on sending, and repeats
its own handshakes. So where the server answers echoes, one is sent every CALM seconds of traffic, and when it is not
answered, many: of twenty a second some get through, also where a third is lost each way. Only when all have failed is
the peer renewed, for that throws away what is under way. Where no echo was ever answered, bytes that came in must do.
"""

from __future__ import annotations

from daemon.linux.wireguard_device import PeerState

# --- time, all in seconds ---------------------------------------------------------------------------------------------
CONNECT_LOOKS = (0.01, 0.02, 0.05)  # between looks for the first handshake, the last repeated; one takes 0.5 ms
CONNECT_RETRIES = (1.0, 2.0, 4.0)  # then once more: WireGuard itself waits 5 s after a lost packet, and right after
# joining a network the first is often lost (ARP). Growing, so that a slow answer is not cut off each time
# A dead server is noticed within 6 s of traffic, where an echo comes back within SLOW. Idle before: IDLE_LOOK, then the
# echoes, then the probe. Busy: CALM, the echoes, the probe. Without echoes: BUSY_LOOK (the last answer is seen that
# late), SILENCE or, after a probe that was answered, PATIENCE, then the probe with more tries.
IDLE_LOOK = 3.0  # between looks at the counters while nothing is sent
BUSY_LOOK = 1.0  # while data goes out
FIRST_LOOK = 0.25  # at a new tunnel: the first echo is sent then, for the routes into it may be a moment late
CALM = 2.0  # traffic may go on so long without an answer of ours
ECHO_PACE = 0.05  # between echoes when the first was not answered in time
ECHO_WINDOW = 1.2  # beside the time that one takes: so long echoes are sent before the server is probed
SILENCE = 2.5  # without echoes: data went out and nothing came for so long
PATIENCE = 3.4  # the same right after a probe was answered: what goes one way only is not probed more often
PROBE_TRIES = (0.15, 0.15, 0.15, 0.15, 0.2, 0.3, 0.4)  # waits for the answer to a handshake. Sum 1.5
MORE_TRIES = (0.15, 0.15, 0.2, 0.2)  # without echoes; sum 0.7
SLOW, PROBE_SLOW, SLOW_TRIES = 0.15, 1.0, 3  # more and longer waits where a handshake or an echo took longer than SLOW
PROBE_LOOK = 0.05  # between looks meanwhile
KEY_LIFE = 180.0  # REJECT_AFTER_TIME of the protocol: with keepalives on, an older handshake means 60 s of failed ones
LAST_WORDS = 0.05  # after the link went, for the process to end and say why
CONNECT_KEEPALIVE = 1  # for profiles that have none, until the first handshake: something must be sent to start it

KEEPALIVE_SIZE = 32  # bytes of this message, in the counters and in the protocol; an initiation has 148
# What a server sends that hears nothing: keepalives, initiations, one of each, two initiations.
CHATTER = frozenset({32, 148, 180, 296})
LEARN_TRIES = 5  # echoes, before the server counts as one that answers none
DEAF = 2  # probes in a row that were answered while no echo was: it answers echoes no more


class Vigil:
    """Tells from the counters when to look again, when to send an echo and when silence has become suspicious."""

    def __init__(
        self, now: float, state: PeerState, keepalive: int, silence: float = SILENCE, rtt: float | None = None
    ) -> None:
        """`silence` holds until the first answer. `rtt`: seconds that an echo takes, None where none came back."""
        self._keepalive, self._silence, self._rtt = keepalive, silence, rtt
        self._last, self._last_at = state, now
        self._handshake_at = now  # when a handshake was last seen to be new; never compared with the wall clock
        self._unanswered_since: float | None = None
        self._echoing_since: float | None = None
        self._learned = 0
        self.wait = BUSY_LOOK if rtt is not None else FIRST_LOOK
        self.echo = False  # send one now
        self.suspicious = False

    def look(self, now: float, state: PeerState, own: int = 0, rtt: float | None = None) -> None:
        """`own`: bytes of echoes among what was sent since the last look. `rtt`: of one that came back since then."""
        last, last_at = self._last, self._last_at
        self._last, self._last_at = state, now
        sent = is_data(state.tx - last.tx - own)
        came = state.rx - last.rx
        proven = rtt is not None or state.handshake != last.handshake
        if rtt is not None:
            self._rtt = rtt if self._rtt is None else max(rtt, 0.9 * self._rtt)
        if state.handshake != last.handshake:
            self._handshake_at = now
        if proven or (self._rtt is None and came != 0 and came not in CHATTER):
            self._unanswered_since = self._echoing_since = None
            self._silence = SILENCE
        elif sent and self._unanswered_since is None:
            self._unanswered_since = last_at  # it went out some time after the last look: suspect early, not late
        waiting = 0.0 if self._unanswered_since is None else now - self._unanswered_since
        self.wait = BUSY_LOOK if sent or proven else IDLE_LOOK
        if self._rtt is None:
            self._without_echoes(sent, waiting)
        else:
            self._with_echoes(now, waiting, self._rtt)
        if self._keepalive > 0 and now - self._handshake_at > KEY_LIFE:
            self.suspicious = True

    def _with_echoes(self, now: float, waiting: float, rtt: float) -> None:
        self.echo = self._unanswered_since is not None and waiting >= CALM
        if self.echo and self._echoing_since is None:
            self._echoing_since = now
        begun = self._echoing_since
        self.suspicious = begun is not None and now - begun >= ECHO_WINDOW + rtt
        if begun is not None:
            self.wait = ECHO_PACE
        elif self._unanswered_since is not None:
            self.wait = min(BUSY_LOOK, max(ECHO_PACE, CALM - waiting))

    def _without_echoes(self, sent: bool, waiting: float) -> None:
        self.echo = (sent or self._learned == 0) and self._learned < LEARN_TRIES
        self._learned += self.echo
        self.suspicious = self._unanswered_since is not None and waiting >= self._silence
        if self._unanswered_since is not None:
            self.wait = min(BUSY_LOOK, max(PROBE_LOOK, self._silence - waiting))


def is_data(sent: int) -> bool:
    """Whether so many bytes between two looks are more than the keepalive that WireGuard sends by itself.

    A keepalive is not answered, so its silence means nothing; a handshake initiation is, and counts.
    """
    return sent > 0 and sent != KEEPALIVE_SIZE


def probe_tries(rtt: float | None, handshake: float) -> tuple[float, ...]:
    """The waits of a probe, one a renewal of the peer. `rtt` of echoes, None without; `handshake`: what one took."""
    tries = PROBE_TRIES if rtt is not None else (*PROBE_TRIES, *MORE_TRIES)
    slowest = max(rtt or 0.0, handshake)
    return (*tries, *(max(PROBE_SLOW, 1.3 * slowest),) * SLOW_TRIES) if slowest > SLOW else tries
