"""The verbs `cron …`: what is due when, what became of it and why, and what people do to jobs by hand."""
