"""Networks over point clouds."""
