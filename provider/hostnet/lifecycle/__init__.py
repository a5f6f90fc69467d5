"""Create, read, update and delete of any kind on any host.

`rpc` and `dynamic` share it, so nothing here needs gRPC.
"""
