"""The commands of this package. ``udpring/cli/__init__.py`` says what a command's module has."""
