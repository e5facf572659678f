"""Networks that let a pixel gather context from other pixels, regions and scales."""
