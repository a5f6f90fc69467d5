"""The process beside the kernel: the only code that touches netlink, nftables, sysctls, conntrack and files.

It knows nothing of Pulumi. It imports only the standard library, so that it can travel to a host as one file
(`linux.netlink` says why it does without pyroute2), and speaks JSON lines on its standard input and output (`main`).
"""
