"""org.varlink.service through asyncvarlink: what interfaces there are, and their descriptions."""

from __future__ import annotations

from asyncvarlink import VarlinkInterface, VarlinkInterfaceRegistry
from asyncvarlink.conversion import ConversionError
from asyncvarlink.message import VarlinkMethodCall, VarlinkMethodReply
from asyncvarlink.serviceerrors import InvalidParameter
from asyncvarlink.serviceinterface import VarlinkServiceInterface

from ipc import idl


class Standard:
    """Answers the calls every Varlink service answers."""

    def __init__(self, version: str) -> None:
        self._registry = VarlinkInterfaceRegistry()
        url = "https://varlink.org"
        self._registry.register_interface(
            VarlinkServiceInterface("tunwarden", "tunwardend", version, url, self._registry)
        )
        for name in idl.names():
            self._registry.register_interface(_described(name))

    def answer(self, call: VarlinkMethodCall) -> VarlinkMethodReply:
        """The reply. Raises VarlinkErrorReply: InterfaceNotFound, MethodNotFound or InvalidParameter."""
        function, signature = self._registry.lookup_method(call)
        try:
            result = function(**signature.parameter_type.fromjson(call.parameters))
        except ConversionError as error:
            raise InvalidParameter(parameter=str(error.location[0])) from None
        return VarlinkMethodReply(signature.return_type.tojson(result.parameters))


def _described(full_name: str) -> VarlinkInterface:
    """An interface of ours for the registry. It has no methods there: `Connection` finds those itself."""

    class Described(VarlinkInterface, name=full_name):
        @classmethod
        def render_interface_description(cls, *, comments: bool = True) -> str:
            return idl.render(full_name)

    return Described()
