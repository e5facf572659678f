"""Rendering of landscapes with exact labels, for the built-in dataset."""
