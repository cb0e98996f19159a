"""What a device's daemon is told, signed: its entitlement, and the servers of its plan."""
