"""Networks and the pure functions on their outputs."""
