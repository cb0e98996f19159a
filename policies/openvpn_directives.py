"""Every directive of OpenVPN 2.6, and what becomes of it in a profile: docs/profiles.md is made of this.

From openvpn(8) and `openvpn --help` of 2.6, with those that earlier versions had. What is not here is unknown: refused.
"""

from __future__ import annotations

from enum import StrEnum

# What stands in a profile as a file of one's own in other programs is a block here: <ca> ... </ca>.
BLOCKS = (
    "ca", "cert", "extra-certs", "key", "tls-auth", "tls-crypt", "tls-crypt-v2", "crl-verify", "peer-fingerprint",
    "auth-user-pass", "connection",
)  # fmt: skip


class Fate(StrEnum):
    USED = "used"
    IGNORED = "ignored"
    REFUSED = "refused"


# The values of these are checked in openvpn.py (OPTIONS) or become a field of the profile.
_USED = {
    "the server, tried one at a time, in this order": "remote proto rport port",
    "as tunwarden runs openvpn anyhow": (
        "client tls-client pull nobind auth-nocache disable-dco persist-key persist-tun "
        "resolv-retry auth-retry script-security"
    ),
    "tun only": "dev dev-type",
    "a block": "ca cert extra-certs key crl-verify tls-auth tls-crypt tls-crypt-v2 peer-fingerprint connection",
    "user name and password, as a block or given by SetLogin": "auth-user-pass",
    "with tls-auth": "key-direction",
    "whom to believe": "remote-cert-tls remote-cert-eku remote-cert-ku ns-cert-type verify-x509-name verify-hash",
    "checked against a list of sound ciphers and digests": (
        "cipher data-ciphers ncp-ciphers data-ciphers-fallback auth tls-cipher tls-ciphersuites tls-groups "
        "tls-version-min tls-cert-profile"
    ),
    "how the tunnel is kept alive": "keepalive ping ping-restart ping-exit reneg-sec reneg-bytes reneg-pkts",
    "sizes of packets": "tun-mtu mssfix fragment replay-window",
    "only without compression: it gives away what is encrypted (VORACLE)": "comp-lzo compress",
    "DNS and DNS6 only: a resolver inside the tunnel": "dhcp-option",
}

_IGNORED = {
    "tunwarden sets the routes: everything goes through the tunnel": (
        "redirect-gateway redirect-private route-delay route-metric route-method route-gateway route-ipv6-gateway "
        "block-ipv6 max-routes allow-pull-fqdn topology ifconfig-nowarn tun-ipv6"
    ),
    "everything goes through the tunnel; one that leads past it (net_gateway) is refused": "route route-ipv6",
    "DNS to others than the tunnel's resolvers is blocked by the firewall": "block-outside-dns",
    "the tunnel's resolvers are taken from dhcp-option": "dns",
    "for Windows or macOS": (
        "register-dns ip-win32 tap-sleep win-sys windows-driver dhcp-renew dhcp-release pause-exit allow-nonadmin "
        "show-net-up dev-node"
    ),
    "tunwarden decides when to try again, and for how long": (
        "connect-retry connect-retry-max connect-timeout server-poll-timeout hand-window tran-window tls-timeout "
        "remap-usr1 single-session tls-exit up-restart up-delay down-pre ping-timer-rem "
        "explicit-exit-notify preresolve session-timeout inactive"
    ),
    "servers are tried in their order, beginning with the one that worked last": "remote-random",
    "the kernel chooses the address and the port to send from": "bind lport multihome float persist-local-ip "
    "persist-remote-ip",
    "how fast or how talkative, not how safe": (
        "verb mute mute-replay-warnings sndbuf rcvbuf txqueuelen fast-io tcp-nodelay socket-flags tcp-queue-limit "
        "bcast-buffers nice passtos mtu-disc mtu-test shaper errors-to-stderr suppress-timestamps "
        "machine-readable-output status-version link-mtu tun-mtu-extra tun-max-mtu max-packet-size echo opt-verify "
        "disable-occ syslog mlock comp-noadapt"
    ),
    "names no directive that is known here; unknown ones are refused": "ignore-unknown-option",
    "a name for other programs; variables that change something are refused": "setenv setenv-safe",
    "compression is never allowed": "allow-compression",
    "only openvpn's own, newest behaviour is used": "compat-mode keysize ncp-disable tls-version-max key-method",
    "tells the server about this computer": "push-peer-info",
    "a name with a number before it makes no difference to an address": "remote-random-hostname",
}

_REFUSED = {
    "would run a program as root": (
        "up down route-up route-pre-down ipchange tls-verify auth-user-pass-verify client-connect client-disconnect "
        "client-crresponse learn-address tls-crypt-v2-verify plugin iproute tls-export-cert auth-gen-token-secret"
    ),
    "names a file": (
        "config cd chroot capath dh pkcs12 writepid log log-append status tmp-dir replay-persist askpass "
        "ifconfig-pool-persist client-config-dir ccd-exclusive x509-track keying-material-exporter"
    ),
    "would open the tunnel's program to others": (
        "management management-client management-client-auth management-client-group management-client-pf "
        "management-client-user management-external-cert management-external-key management-forget-disconnect "
        "management-hold management-log-cache management-query-passwords management-query-proxy "
        "management-query-remote management-signal management-up-down"
    ),
    "is about the process, which is tunwarden's": (
        "daemon user group setcon inetd service mark mktun rmtun gremlin memstats no-name-remapping"
    ),
    "loads a program's code, or a device": (
        "engine providers pkcs11-cert-private pkcs11-id pkcs11-id-management pkcs11-pin-cache pkcs11-private-mode "
        "pkcs11-protected-authentication pkcs11-providers cryptoapicert prng"
    ),
    "belongs to a server": (
        "server server-bridge server-ipv6 mode tls-server push push-remove push-reset port-share max-clients "
        "max-routes-per-client client-to-client duplicate-cn ifconfig-pool ifconfig-ipv6-pool ifconfig-push "
        "ifconfig-ipv6-push ifconfig-pool-linear iroute iroute-ipv6 connect-freq connect-freq-initial hash-size "
        "auth-gen-token auth-user-pass-optional client-cert-not-required username-as-common-name verify-client-cert "
        "stale-routes-check disable vlan-accept vlan-pvid vlan-tagging x509-username-field ecdh-curve "
        "force-tls-key-material-export client-nat"
    ),
    "goes through a proxy, which the kill switch does not know": (
        "http-proxy http-proxy-option http-proxy-user-pass http-proxy-retry http-proxy-timeout http-proxy-override "
        "socks-proxy socks-proxy-retry"
    ),
    "asks for other routes than tunwarden's": "route-nopull route-noexec ifconfig-noexec allow-recursive-routing",
    "chooses what is believed of the server; tunwarden has its own list": "pull-filter",
    "asks for a tunnel without TLS": "secret ifconfig ifconfig-ipv6",
    "is for Ethernet tunnels (tap)": "lladdr",
    "weakens what protects the tunnel": "no-replay no-iv use-prediction-resistance",
    "asks people at every login, whom a daemon cannot ask": "static-challenge auth-token auth-token-user",
    "ties the tunnel to an address or a link of this computer, which changes": "local bind-dev",
    "forces a protocol upon servers that have another": "proto-force",
    "shows something and ends": (
        "help version genkey show-adapters show-ciphers show-curves show-digests show-engines show-gateway show-groups "
        "show-net show-pkcs11-ids show-tls show-valid-subnets test-crypto"
    ),
}

DIRECTIVES: dict[str, tuple[Fate, str]] = {
    name: (fate, reason)
    for fate, reasons in ((Fate.USED, _USED), (Fate.IGNORED, _IGNORED), (Fate.REFUSED, _REFUSED))
    for reason, names in reasons.items()
    for name in names.split()
}
