"""Trunks: one contract, timm behind it, and the paper-faithful ones timm lacks."""
