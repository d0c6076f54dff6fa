"""The role that sees to the database's schema before the others work on it."""
