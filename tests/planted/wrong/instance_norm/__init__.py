"""InstanceNorms with mistakes that have a name."""
