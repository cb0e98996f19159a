"""Consents: what was shown, in which version, who accepted it when, and what was withdrawn."""
