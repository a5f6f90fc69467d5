"""The nftables tables of hostnet: fixed chains and rules, and the set elements that resources become.

The sysctls that the rules need (forwarding, `route_localnet`) are here as well.
"""
