"""The normalization layers of the frameworks, held against torch.nn and exact values in every dtype that they have.

    python -m pytest -n0 tests/frameworks       # not part of the plain `pytest`: it takes minutes
    python -m tests.frameworks                  # the table of the README, with versions

Each module has the rows of one framework, which is imported when a row is tried, and skipped where it is not installed.
"""
