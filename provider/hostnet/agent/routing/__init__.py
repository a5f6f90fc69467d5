"""Replies by the same uplink: connection marks, and the routing rules and tables that follow them.

Nothing of it is on a host with a single uplink: there it would cost each packet a chain, and change nothing.
"""
