"""Where a layer is wrong, and how to fix it: small edits of its own source, proved before one is shown."""
