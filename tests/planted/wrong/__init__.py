"""Layers with a mistake that has a name, or two of them: a folder for each layer that they are meant to be."""
