"""`--reload`: restarts the application when its source changes. For development."""
