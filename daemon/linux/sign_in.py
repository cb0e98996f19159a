"""Whether an 802.1X sign-in checks whom it talks to, by the settings of NetworkManager's connection.

Sources: NetworkManager's "802-1x" settings (nm-settings-nmcli(5)), network blocks of wpa_supplicant.conf(5).
"""

from __future__ import annotations

from collections.abc import Mapping

MUTUAL = frozenset({"pwd"})  # both sides prove that they know the password, and neither shows it
BY_CERTIFICATE = frozenset({"tls", "ttls", "peap", "fast"})
# These add whatever public authority the system trusts, and it certifies anybody for a name of his own.
ANYBODY = ("system-ca-certs", "ca-path")
NAME = ("domain-suffix-match", "domain-match", "altsubject-matches", "subject-match")


def trusts_any_server(settings: Mapping[str, Mapping[str, object]]) -> bool:
    """Whether anybody with a server of his own can be taken for the network's. In doubt: yes.

    `settings` by section and name, without variants. The server chooses among the methods, so the worst one counts.
    """
    about = settings.get("802-1x", {})
    methods = about.get("eap")
    if not isinstance(methods, list) or not methods:
        return True
    anybody, named = any(map(about.get, ANYBODY)), any(map(about.get, NAME))
    checked = (anybody and named) or (about.get("ca-cert") and not anybody)
    return any(method not in MUTUAL and not (method in BY_CERTIFICATE and checked) for method in methods)
