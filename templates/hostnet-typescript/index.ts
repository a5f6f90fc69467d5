// The network of a microVM host: a bridge, guests whose TAPs are named vm-*, NAT, ports that lead to a guest.
import * as hostnet from "pulumi-hostnet";

const microvm = new hostnet.Bridge("microvm", {
    addresses: ["10.0.0.1/24", "fd12:3456:789a::1/64"],
    dhcpServer: {
        staticLeases: [{ macAddress: "02:00:00:00:00:02", address: "10.0.0.2", hostname: "web" }],
    },
    ipv6SendRa: true,
});
// Every interface named like this is attached, now and later: a VMM creates them.
new hostnet.TapBinding("guests", { match: "vm-*", bridge: microvm.name });
const nat = new hostnet.NatGateway("nat", { internalInterfaces: [microvm.name], enableIpv6: true });
for (const port of [80, 443]) {
    new hostnet.PortForward(`web-${port}`, { natGateway: nat.id, sourcePort: port, destination: "10.0.0.2" });
}

export const bridge = microvm.name;
export const gateway = microvm.gateway;
export const externalAddresses = nat.externalAddresses;
