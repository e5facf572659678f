"""Networks that give several answers where an image allows several."""
