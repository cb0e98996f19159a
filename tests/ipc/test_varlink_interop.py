"""asyncvarlink's own client talks to us. (It reads annotations as objects: no `from __future__ import annotations`.)"""

import asyncvarlink
import pytest
from asyncvarlink.serviceinterface import VarlinkServiceInterface

from ipc import idl
from tests.ipc.varlink_place import ERROR, NAME, Place, run

pytestmark = pytest.mark.netns  # needs root: other users ask, and owners are set


class Manager(asyncvarlink.VarlinkInterface, name=f"{NAME}.Manager"):
    @asyncvarlink.varlinkmethod(return_parameter="version")
    def GetVersion(self) -> str: ...  # type: ignore[empty-body]

    @asyncvarlink.varlinkmethod
    def Connect(self, *, profile: str | None) -> None: ...


def test_asyncvarlinks_client_understands_us() -> None:
    async def check(here: Place) -> None:
        transport, client = await asyncvarlink.connect_unix_varlink(
            asyncvarlink.VarlinkClientProtocol, here.folder / "tunwarden.sock"
        )
        manager = asyncvarlink.VarlinkInterfaceProxy(client, Manager)
        assert (await manager.GetVersion())["version"] == "9.8.7"
        await manager.Connect(profile=None)
        with pytest.raises(asyncvarlink.VarlinkErrorReply) as caught:
            await manager.Connect(profile="nowhere")
        assert caught.value.name == f"{ERROR}.NoSuchProfile"
        standard = asyncvarlink.VarlinkInterfaceProxy(client, VarlinkServiceInterface)
        info = await standard.GetInfo()
        assert info["version"] == "9.8.7"
        assert info["interfaces"] == sorted([*idl.names(), "org.varlink.service"])
        for name in idl.names():
            assert (await standard.GetInterfaceDescription(interface=name))["description"] == idl.render(name)
        transport.close()
        await transport.closed_future

    run(check)
