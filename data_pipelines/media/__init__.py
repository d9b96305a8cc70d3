"""Decoding and measuring: video, sound and tables of signals."""
