"""The network laboratory: namespaces, a VPN server, a leak meter and the story of `make run`."""
