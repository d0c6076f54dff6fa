"""From the outbox to the brokers: publishes what was committed, and deletes what a broker has confirmed."""
