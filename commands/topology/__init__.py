"""`python app.py topology …`: the queues that are declared, and those that there are."""
