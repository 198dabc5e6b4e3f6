"""Applications that run beside commonly used tools, each in its own process.

Each is run as ``python -m tests.tools.NAME`` and prints its results as JSON, for
tests/test_tools.py: the tools replace task factories, patch classes and leave threads,
which would stay in the process of the tests.
"""
