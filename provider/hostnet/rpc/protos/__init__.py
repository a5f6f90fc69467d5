"""Pulumi's protocol, as `make protocol` takes it from Pulumi's Python SDK; the plugin does not need that SDK to run.

Every message has hostnet's prefix in protobuf's registry, where each process has one entry for a name. So these modules
and those of any version of `pulumi` work in one process, whichever is imported first. On the wire both are the same.
The modules are Pulumi's work, licensed as hostnet is: Apache-2.0.
"""
