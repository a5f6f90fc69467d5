"""The command line `hostnet`: what hostnet holds on a host, whether the host is ready, and what to do by hand."""

from hostnet.cli.main import main

__all__ = ["main"]
