"""The version of the package, for modules that it imports itself, and for its build."""

__version__ = "0.1.0"
