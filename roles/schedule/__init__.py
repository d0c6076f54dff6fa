"""The `schedule` role: cron jobs, each tick once in the whole cluster."""
