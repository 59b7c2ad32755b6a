"""The version, for those that must not import the package itself."""

__all__ = ["VERSION"]

VERSION = "0.2.0"
