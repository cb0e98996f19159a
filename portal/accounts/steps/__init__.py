"""Two-step verification: a code by SMS first, then optionally an authenticator app; recovery codes."""
