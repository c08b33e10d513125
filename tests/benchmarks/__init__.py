"""Speed and memory of the bus, side by side with references in one run: ``python -m tests.benchmarks``.

docs/benchmarks.rst says what each row means. Figures are printed, never asserted.
"""
