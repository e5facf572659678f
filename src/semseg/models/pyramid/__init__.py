"""Networks that pool context at several scales."""
