"""The kernel and the programs of a Linux host: netlink, libnftables, conntrack, systemd, files. No decisions here."""
