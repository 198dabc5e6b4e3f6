"""The version of the package, for those who cannot import it whole."""

__version__ = "0.1.0"
