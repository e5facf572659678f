"""Networks made to be fast."""
