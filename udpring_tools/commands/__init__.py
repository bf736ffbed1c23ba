"""The commands of this package. ``udpring/cli/__init__.py`` describes a command's module."""
