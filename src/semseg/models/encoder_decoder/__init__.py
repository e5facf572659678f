"""Networks that shrink the image and grow it back."""
