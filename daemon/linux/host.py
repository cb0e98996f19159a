"""All Linux adapters, put together."""

from __future__ import annotations

from pathlib import Path

from daemon.host import Host
from daemon.linux.beacons import LinuxBeacons
from daemon.linux.frames import Frames
from daemon.linux.leak_check import LinuxLeakCheck
from daemon.linux.link_counters import LinkCounters
from daemon.linux.links import LinuxLinks
from daemon.linux.lockdown import LockdownFile
from daemon.linux.login_tree import LoginTree
from daemon.linux.nft import NftFirewall
from daemon.linux.obstacles import NftObstacles
from daemon.linux.path_mtu import LinuxPathMtu
from daemon.linux.portals import LinuxPortals
from daemon.linux.resolver import LinuxResolver
from daemon.linux.routes import LinuxRoutes
from daemon.linux.server_probe import WireGuardProbe
from daemon.linux.sleep import LogindSleep
from daemon.linux.sleep_clock import EverySleep
from daemon.linux.split_groups import SplitGroups
from daemon.linux.tamper import LinuxTamper
from daemon.linux.tunnels import Tunnels
from daemon.linux.twins import Twins
from daemon.linux.watch_client import ServiceFrames, ServiceLeakCheck, may_open
from daemon.linux.wifi import LinuxWifi, sources
from policies.settings import Settings


def linux_host(settings: Settings, state_folder: Path) -> Host:
    """What the daemon needs of Linux."""
    itself = may_open()  # else the service that watches does it
    return Host(
        lookouts=(Frames() if itself else ServiceFrames(), Twins()),
        link_counters=LinkCounters(),
        path_mtu=LinuxPathMtu(),
        server_probe=WireGuardProbe(),
        links=LinuxLinks(settings.links),
        wifi=LinuxWifi(sources()),
        firewall=NftFirewall(),
        routes=LinuxRoutes(state_folder),
        tunnel=Tunnels(),
        resolver=LinuxResolver(settings.dns.manager, state=state_folder),
        tamper=LinuxTamper(),
        lockdown=LockdownFile(state_folder),
        sleep=EverySleep(LogindSleep()),
        leak_check=(LinuxLeakCheck if itself else ServiceLeakCheck)(settings.split.subnets),
        obstacles=NftObstacles(),
        beacons=LinuxBeacons(),
        login_tree=LoginTree(),
        split_groups=SplitGroups(),
        portals=LinuxPortals(),
    )
