"""hostnet: a Linux host's network as part of a Pulumi stack.

The package is split into rooms that import in one direction; docs/architecture.md has the map.
"""

__version__ = "0.1.0"
