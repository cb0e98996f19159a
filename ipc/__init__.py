"""Two faces of one interface: D-Bus and a Unix socket (Varlink)."""
