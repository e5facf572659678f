"""Networks that keep resolution by dilated convolution."""
