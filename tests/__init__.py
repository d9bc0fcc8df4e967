"""The tests: the only place that imports both the layers and what judges them."""
