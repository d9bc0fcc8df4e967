"""BatchNorms with mistakes that have a name."""
