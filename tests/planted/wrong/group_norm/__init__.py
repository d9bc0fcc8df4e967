"""GroupNorms with mistakes that have a name."""
