"""Readers: one raw layout each, from its files to recordings."""
