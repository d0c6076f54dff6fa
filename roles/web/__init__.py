"""Serves HTTP: the listening socket, Hypercorn, and what every request goes through. Below the roles that do."""
