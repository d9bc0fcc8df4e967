"""RMSNorms with mistakes that have a name."""
