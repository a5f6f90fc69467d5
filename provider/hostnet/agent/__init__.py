"""The process beside the kernel: the only code that touches netlink, nftables, sysctls, conntrack and files.

It knows nothing of Pulumi, imports the standard library only (so that it can travel to a host as one file; `netlink`
says why pyroute2 is not among its imports), and speaks JSON lines on its standard input and output (`main`).
"""
