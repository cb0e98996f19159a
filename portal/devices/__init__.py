"""Devices of an account: their credentials, what is asked of them from afar, and the stream that tells them."""
