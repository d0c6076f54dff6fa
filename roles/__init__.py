"""What runs: the supervisor, what it gives its roles, and one package per role."""
