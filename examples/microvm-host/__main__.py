"""A microVM host's network in one component: the page of microvm.nix on `systemd.network` and `networking.nat`.

The VMM creates a guest's TAP (its name begins with `vm-`) with the guest's MAC address from this file. The guest then
gets its address by DHCP, its name in the host's DNS, an IPv6 address by router advertisements, and access to the
internet.
"""

import pulumi
import pulumi_hostnet as hostnet

PREFIX = "fd12:3456:789a::"
# Name: MAC address, last part of the addresses, port of the host: port of the guest.
GUESTS = {
    "web": ("02:00:00:00:00:02", 2, {80: 80, 443: 443}),
    "git": ("02:00:00:00:00:03", 3, {2222: 22}),
}


def forwards(number: int, ports: dict[int, int]) -> list[hostnet.ForwardPortArgs]:
    """Forwards to a guest, over IPv4 and IPv6. DHCP does not give it this IPv6 address: set it in the guest."""
    return [
        hostnet.ForwardPortArgs(source_port=source, destination=f"{address}:{port}")
        for source, port in ports.items()
        for address in (f"10.0.0.{number}", f"[{PREFIX}{number}]")
    ]


host = hostnet.MicroVmHost(
    "microvm",
    addresses=["10.0.0.1/24", f"{PREFIX}1/64"],
    match="vm-*",
    port_isolation=True,  # guests can't reach each other
    dhcp_server=hostnet.DhcpServerArgs(
        static_leases=[
            hostnet.StaticLeaseArgs(mac_address=mac, address=f"10.0.0.{number}", hostname=name)
            for name, (mac, number, _) in GUESTS.items()
        ],
    ),
    forwards=[entry for _, number, ports in GUESTS.values() for entry in forwards(number, ports)],
)
pulumi.export("bridge", host.bridge_name)
pulumi.export("externalAddresses", host.external_addresses)
