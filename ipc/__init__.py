"""Two faces of one interface: D-Bus and a Unix socket (Varlink)."""

# The one place: pyproject.toml reads it as well. Asking the installed distribution costs 18 ms and the module `email`.
VERSION = "0.1.0"
