"""A right layer and tests of it as public suites write them, each blind to something: what audits are tried on.

The tests are no tests of this project's: the audits run them, on mutants of the layer.
"""
