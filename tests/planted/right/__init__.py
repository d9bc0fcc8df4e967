"""Right layers: a verdict that accuses one of them is wrong."""
