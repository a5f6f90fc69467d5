"""The command line `hostnet`: what hostnet manages on a host, whether the host is ready, and repairs by hand.

`main` parses the arguments and talks with the host; the other modules write for the terminal.
"""

from hostnet.cli.main import main

__all__ = ["main"]
