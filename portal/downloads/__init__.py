"""Releases of products, and who may download them where."""
