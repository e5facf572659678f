"""Networks by blocks that at least two of them share."""
