"""The verbs of the command line, a module for each group; `app.py` puts them together."""
