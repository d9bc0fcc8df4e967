"""LayerNorms with mistakes that have a name."""
