"""DHCP, DNS and router advertisements: what the dnsmasq of a bridge is to serve, and its process."""
