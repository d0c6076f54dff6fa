"""Health, status and the console of this process: reads what the other roles report, and changes nothing."""
