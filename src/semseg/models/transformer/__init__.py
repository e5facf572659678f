"""Networks whose trunk is a transformer."""
