"""The plugin: the only room that knows gRPC and Pulumi's protocol.

Each RPC decodes its request, calls `lifecycle` or `resources`, and encodes the answer.
"""
