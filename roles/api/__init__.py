"""The HTTP API. `routes/` is yours; the rest serves it."""
