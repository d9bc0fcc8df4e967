"""Which mistakes of a layer its tests would not notice: mutants that are wrong, the tests run on each, and the reasons."""
