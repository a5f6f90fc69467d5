"""hostnet: a Linux host's network as part of a Pulumi stack."""

__version__ = "0.1.0"
