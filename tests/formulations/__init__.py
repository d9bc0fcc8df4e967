"""The ordinary right ways to compute a normalization, part by part, and layers put together from them.

`parts` has the ways of each part, `layers` the layers. A verdict that accuses one of them is wrong, whichever ways are
combined. Shares no code with `reference` or `npnorm`.
"""
