"""The kernel and the programs of a Linux host: netlink, libnftables, conntrack, systemd, files.

Nothing is decided here: each function reads one thing or does one thing.
"""
