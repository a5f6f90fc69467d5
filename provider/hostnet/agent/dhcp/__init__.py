"""DHCP, DNS and router advertisements of a bridge: the configuration of its dnsmasq, and the process.

`config` is pure and makes the text; `dnsmasq` and `checksums` make the host run it.
"""
