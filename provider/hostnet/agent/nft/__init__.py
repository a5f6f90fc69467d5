"""The nftables tables of hostnet: fixed chains, the elements that resources become, and the sysctls beside them."""
