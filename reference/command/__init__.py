"""The terminal: arguments, a stranger's file, listings, exit codes."""
