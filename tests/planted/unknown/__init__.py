"""Layers whose mistake is in no dictionary: it must be called unknown, not given the name of another."""
