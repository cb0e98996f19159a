"""tunwarden leak-test: send packets that must not leave, watch the links, and say what became of each (K7)."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from cli.codes import Exit
from cli.leak_probes import ETH_ARP, ETH_IPV4, ETH_IPV6, MOST_HOPS, Frame, Network, Probe, Verdict, probes, recognises
from cli.leak_wire import Sent, Wire, has_address, physical, running, send
from cli.output import Output
from ipc.client import Client, NotRunningError
from ipc.structs import Status

TUNNEL = "tunwarden0"  # where the daemon names no other
# For documentation (RFC 5737, RFC 3849): nobody is there, and with so few hops nothing gets far anyway.
TARGET4, TARGET6 = "203.0.113.0/24", "2001:db8::/32"
WAIT_S = 1.0  # for what leaves late: a queue, a question for a hardware address
SHOWN_BYTES, SHOWN_RESULTS = 64, 16  # as evidence; --json shows all frames

DESCRIPTION = """\
Sends UDP, a TCP SYN, an ICMP echo request and a DNS question, IPv4 and IPv6, bound to no link and to each physical
link, as programs that know nothing of the VPN would, and watches every link. The packets carry random marks and few
hops: those that get out end at the first router. Needs root."""
EPILOG = """\
exit codes: 0 nothing left outside the tunnel, 6 something did though protection is wanted, 1 it could not be tested,
or there is nothing to test because nobody asked for protection"""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a probe, and the frames that prove it."""

    probe: Probe
    verdict: Verdict
    how: str
    evidence: tuple[Frame, ...] = ()


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--link", action="append", metavar="IFNAME", help="test this link (else every physical one)")
    parser.add_argument("--target4", type=_network4, default=TARGET4, metavar="ADDRESS", help=f"or network ({TARGET4})")
    parser.add_argument("--target6", type=_network6, default=TARGET6, metavar="ADDRESS", help=f"or network ({TARGET6})")
    parser.add_argument(
        "--hops", type=int, choices=range(1, MOST_HOPS + 1), default=1, help="routers that a probe may reach (1)"
    )
    parser.add_argument("--wait", type=_seconds, default=WAIT_S, metavar="SECONDS", help=f"for late frames ({WAIT_S})")


def run(options: argparse.Namespace, out: Output) -> int:
    if os.geteuid() != 0:
        return _unable(out, "not-permitted", "leak-test needs root: sudo tunwarden leak-test", Exit.NOT_PERMITTED)
    before = _status(options.run_folder)
    links = options.link or _links(before)
    if not links:
        return _unable(out, "no-link", "no link is up: nothing can leave, and nothing can be tested")
    if before is not None and open_by_choice(before):
        out.note("Nobody asked for protection, so the probes will leave: that is no leak.")
    try:
        wire = Wire()
    except OSError as err:
        return _unable(out, "blind", f"the links cannot be watched, which needs CAP_NET_RAW: {err.strerror}")
    try:
        sent, frames, why = _experiment(wire, links, options)
    finally:
        wire.close()
    after = _status(options.run_folder)
    if not why and _protection(before) != _protection(after):
        why = f"protection changed meanwhile ({_protection(before)}, then {_protection(after)}): test again"
    cleared = _cleared(before) | _cleared(after)
    tunnel = (before and before.tunnel) or TUNNEL
    if not why and tunnel != ((after and after.tunnel) or TUNNEL):
        why = "the tunnel became another link meanwhile: test again"
    results = [judge(each, frames, sent, cleared, tunnel) for each in sent]
    return _tell(out, links, results, why, _protection(after))


def _experiment(
    wire: Wire, links: Sequence[str], options: argparse.Namespace
) -> tuple[list[Sent], list[Frame], str | None]:
    """What was sent and what left meanwhile; and why that proves nothing, if it does not."""
    if blind := wire.sees(links):
        return [], [], _blind(blind)
    sent = [send(probe, options.hops) for probe in probes(links, (options.target4, options.target6))]
    frames: list[Frame] = []
    deadline = time.monotonic() + options.wait
    while time.monotonic() < deadline:
        frames += wire.frames()
        time.sleep(0.01)
    for each in sent:
        each.close()
    frames += wire.frames()
    lost, blind = wire.lost(), wire.sees([link for link in links if running(link)])
    if lost:
        return sent, frames, f"the kernel lost {lost} frames before they were looked at: test again with less traffic"
    if gone := [link for link in links if not running(link)]:
        return sent, frames, f"{', '.join(gone)} went down meanwhile: test again"
    return sent, frames, _blind(blind) if blind else None


def judge(
    sent: Sent, frames: Iterable[Frame], everything: Sequence[Sent], cleared: frozenset[str], tunnel: str = TUNNEL
) -> Result:
    """The verdict on one probe. `cleared`: links that may be used outside the tunnel, because somebody chose so."""
    probe = sent.probe
    mine = [frame for frame in frames if recognises(probe, frame, sent.source_port)]
    mine = [frame for frame in mine if _whose(frame, probe, everything)]
    if not all(frame.ifname for frame in mine):
        return Result(probe, Verdict.UNTESTED, "it went over a link that has vanished")  # perhaps our tunnel
    outside = tuple(frame for frame in mine if frame.ifname != tunnel)
    if outside:
        over = ", ".join(sorted({frame.ifname for frame in outside}))
        if all(frame.ethertype == ETH_ARP for frame in outside):
            over += " (asked for the way there: whoever answers gets the packet)"
        chosen = all(frame.ifname in cleared for frame in outside)
        return Result(probe, Verdict.CHOICE if chosen else Verdict.LEAKED, f"over {over}", outside)
    if mine:
        return Result(probe, Verdict.TUNNEL, "", tuple(mine))
    if sent.refused is None:
        return Result(probe, Verdict.KEPT, "silently dropped")
    links = {each.probe.link for each in everything if each.probe.link} if probe.link is None else {probe.link}
    if not any(has_address(link, probe.target.version) for link in links):
        return Result(probe, Verdict.UNTESTED, f"no IPv{probe.target.version} address")
    return Result(probe, Verdict.KEPT, sent.refused)


def _whose(frame: Frame, probe: Probe, everything: Sequence[Sent]) -> bool:
    """Probes may share a target if one was named. Then a question for its hardware address is laid to those that are
    bound to the link where it was asked; to others only if there is none."""
    bound = [each.probe for each in everything if each.probe.target == probe.target and each.probe.link == frame.ifname]
    return probe.token in frame.packet or frame.ethertype != ETH_ARP or probe in bound or not bound


# --- what is wanted --------------------------------------------------------------------------------------------------


def open_by_choice(status: Status) -> bool:
    """Whether traffic may leave outside the tunnel because a user or a rule wants it so."""
    closed = status.blocking or status.protected or status.lockdown
    return not closed and (status.target == "unprotected" or not status.kill_switch)


def _protection(status: Status | None) -> str:
    if status is None:
        return "unknown"
    return "not wanted" if open_by_choice(status) else "wanted"


def _cleared(status: Status | None) -> frozenset[str]:
    if status is None or not open_by_choice(status):
        return frozenset()
    return frozenset(network.ifname for network in status.networks if network.cleared)


def _status(folder: str) -> Status | None:
    try:
        with Client(folder) as client:
            return client.get_status()
    except (NotRunningError, TimeoutError):
        return None


def _links(status: Status | None) -> list[str]:
    """The daemon knows best which links reach outside; without it, the kernel is asked."""
    named = [network.ifname for network in status.networks if running(network.ifname)] if status else []
    return named or physical(TUNNEL)


# --- out -------------------------------------------------------------------------------------------------------------


def _tell(out: Output, links: Sequence[str], results: Sequence[Result], why: str | None, protection: str) -> int:
    leaked = [result for result in results if result.verdict is Verdict.LEAKED]
    left = [result for result in results if result.verdict is Verdict.CHOICE]
    untested = [result for result in results if result.verdict is Verdict.UNTESTED]
    out.data(
        {
            "protection": protection,
            "links": list(links),
            "leaked": len(leaked),
            "unable": why,
            "probes": [_as_data(result) for result in results],
        }
    )
    if results:
        out.table(("PROBE", "IP", "BOUND TO", "VERDICT"), [_row(result) for result in results])
        out.line()
    for result in (leaked + left)[:SHOWN_RESULTS]:
        frame = result.evidence[0]
        out.line(out.paint(_evidence(result, frame), "red" if result in leaked else "yellow"))
        out.line(f"  {frame.packet[:SHOWN_BYTES].hex(' ', 4)}")
    if leaked and not _decoders():
        out.note(f"To see these frames decoded: python3 -m pip --python {sys.executable} install scapy")
    if leaked:
        out.line(out.paint(f"LEAKED: {len(leaked)} of {len(results)} probes left outside the tunnel.", "red"))
        if protection == "unknown":
            out.note("No daemon answers, so nobody knows whether protection is wanted.")
        return Exit.ALARM
    if why or len(untested) == len(results):
        out.note(f"tunwarden: this proves nothing: {why or 'no probe could be sent'}")
        return Exit.FAILED
    if left:
        out.line(out.paint(f"Unprotected by choice: {len(left)} of {len(results)} probes left in the clear.", "yellow"))
        return Exit.FAILED
    tried = len(results) - len(untested)
    out.line(out.paint(f"Nothing leaked: {tried} probes stayed in or went into the tunnel.", "green"))
    out.line(f"Watched {', '.join(links)}: a control frame was seen there before and after the probes.")
    if untested:
        out.line(f"{len(untested)} probes could not be tested.")
    return Exit.OK


def _row(result: Result) -> tuple[str, str, str, str]:
    probe = result.probe
    verdict = f"{result.verdict.value}: {result.how}" if result.how else result.verdict.value
    return probe.kind.value.upper(), f"{probe.target.version}", probe.link or "-", verdict


def _as_data(result: Result) -> dict[str, object]:
    probe = result.probe
    return {
        "kind": probe.kind.value,
        "target": str(probe.target),
        "link": probe.link,
        "verdict": result.verdict.name.lower(),
        "how": result.how,
        "frames": [
            {
                "link": frame.ifname,
                "bytes": len(frame.packet),
                "head": frame.packet[:SHOWN_BYTES].hex(),
                "summary": summary(frame),
            }
            for frame in result.evidence
        ],
    }


def _evidence(result: Result, frame: Frame) -> str:
    probe = result.probe
    bound = f"bound to {probe.link}" if probe.link else "bound to no link"
    return (
        f"{probe.kind.value.upper()} to {probe.target}, {bound}, over {frame.ifname}: "
        f"{len(frame.packet)} bytes, {summary(frame)}"
    )


def summary(frame: Frame) -> str:
    """One line on a frame: scapy's, where the extra `leak-test` is installed, else only what it is."""
    if decode := _decoders().get(frame.ethertype):
        return str(decode(frame.packet).summary())
    return {ETH_ARP: "ARP", ETH_IPV4: "IPv4", ETH_IPV6: "IPv6"}.get(frame.ethertype, f"type {frame.ethertype:#06x}")


@cache
def _decoders() -> dict[int, Callable[[bytes], Any]]:
    """scapy's, by Ethertype; none where it is not installed. Imported only when there is a frame to show: 0.5 s."""
    logging.getLogger("scapy").setLevel(logging.ERROR)  # it warns of links without an address
    try:
        from scapy.layers import dns, inet, inet6, l2  # noqa: F401  dns registers itself
    except ImportError:
        return {}
    return {ETH_ARP: l2.ARP, ETH_IPV4: inet.IP, ETH_IPV6: inet6.IPv6}


def _blind(blind: dict[str, str]) -> str:
    return "; ".join(f"cannot see what leaves over {link}: {why}" for link, why in blind.items())


def _unable(out: Output, error: str, why: str, code: Exit = Exit.FAILED) -> int:
    out.data({"error": error, "why": why})
    out.note(f"tunwarden: {why}")
    return code


def _network4(text: str) -> Network:
    return IPv4Network(text)


def _network6(text: str) -> Network:
    return IPv6Network(text)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.1 <= seconds <= 60:
        raise argparse.ArgumentTypeError("between 0.1 and 60 seconds")
    return seconds
