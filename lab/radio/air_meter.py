"""The leak meter of the air: every frame that the laptop's cards transmit, as the radio `hwsim0` hears them."""

from __future__ import annotations

import secrets
import socket
import struct
import threading
import time
from dataclasses import dataclass

from lab.frames import ETH_IPV4, LEAKS, Expect, Kind, classify_payload
from lab.processes import LabError

ETH_ALL, ETH_EAPOL = 0x0003, 0x888E
SO_RCVBUFFORCE = 33
DATA, NULL, TO_DS, PROTECTED, ORDER, QOS = 2, 4, 0x01, 0x40, 0x80, 8  # IEEE 802.11-2020, 9.2.4.1
SNAP = b"\xaa\xaa\x03\0\0\0"


@dataclass(frozen=True, slots=True)
class Sent:
    """A data frame to an access point. `encrypted`: nobody else can read it; else what it is."""

    time: float  # of the monotonic clock
    station: bytes
    encrypted: bool
    ethertype: int
    payload: bytes


def data_frame(captured: bytes, moment: float) -> Sent | None:
    """A frame with a radiotap header; None when it is not a data frame with something in it to an access point."""
    if len(captured) < 4:
        return None
    frame = captured[struct.unpack_from("<H", captured, 2)[0] :]
    if len(frame) < 24:
        return None
    kind, subtype, flags = frame[0] >> 2 & 3, frame[0] >> 4, frame[1]
    if kind != DATA or subtype & NULL or flags & 3 != TO_DS:
        return None
    header = 24 + (2 if subtype & QOS else 0) + (4 if subtype & QOS and flags & ORDER else 0)
    body = frame[header:]
    if flags & PROTECTED:
        return Sent(moment, frame[10:16], True, 0, body)
    if body[:6] != SNAP or len(body) < 8:
        return Sent(moment, frame[10:16], False, 0, body)
    return Sent(moment, frame[10:16], False, int.from_bytes(body[6:8]), body[8:])


class AirMeter:
    """`with AirMeter(expect) as meter:` ... `meter.leaks()`, and `positive_control()` in the same test."""

    def __init__(self, expect: Expect, station: bytes = b"\x02\0\0\0\0\0") -> None:
        self.expect, self._station = expect, station
        self._sent: list[Sent] = []
        self._token = secrets.token_bytes(12)

    def __enter__(self) -> AirMeter:
        self._ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_ALL))
        self._ear.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        self._ear.bind(("hwsim0", ETH_ALL))
        self._ear.settimeout(0.2)
        self._over = False
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        return self

    def _listen(self) -> None:
        while not self._over:
            try:
                captured = self._ear.recv(1 << 16)
            except TimeoutError:
                continue
            if (sent := data_frame(captured, time.monotonic())) and sent.station == self._station:
                self._sent.append(sent)

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._thread.join()
        self._ear.close()

    def reset(self) -> None:
        """Forget what was heard so far."""
        self._sent = []

    def sent(self) -> list[Sent]:
        """What the laptop transmitted so far, without controls."""
        return [each for each in self._sent if self._token not in each.payload]

    def kinds(self) -> list[Kind]:
        """Of the frames that everybody near by can read, without handshakes."""
        return [
            classify_payload(each.ethertype, each.payload, self.expect)
            for each in self.sent()
            if not each.encrypted and each.ethertype != ETH_EAPOL
        ]

    def leaks(self) -> list[str]:
        """A line for each readable frame that no policy of a protected laptop allows. Raises LabError when blind."""
        self._no_drops()
        return [
            f"{each.time:.3f} {each.ethertype:#06x} {each.payload[:48].hex()}"
            for each in self.sent()
            if not each.encrypted
            and each.ethertype != ETH_EAPOL
            and classify_payload(each.ethertype, each.payload, self.expect) in LEAKS
        ]

    def positive_control(self, card: str = "wlan0", timeout: float = 240.0) -> None:
        """A clear packet, put on the card below firewall and routing, is heard. Also a barrier. Raises LabError."""
        packet = bytes.fromhex("450000280000400040110000c0000209c6336401") + bytes(8) + self._token
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind((card, 0))
            raw.send(b"\x02\xff\xff\xff\xff\x01" + self._station + struct.pack(">H", ETH_IPV4) + packet)
        deadline = time.monotonic() + timeout
        while not any(self._token in each.payload for each in tuple(self._sent)):
            if time.monotonic() > deadline:
                raise LabError("positive control: a clear packet of the laptop was not heard, so this meter is deaf")
            time.sleep(0.02)

    def _no_drops(self) -> None:
        packets, drops = struct.unpack("=II", self._ear.getsockopt(263, 6, 8))  # SOL_PACKET, PACKET_STATISTICS
        if drops:
            raise LabError(f"{drops} of {packets} frames were lost: the counts mean nothing")
