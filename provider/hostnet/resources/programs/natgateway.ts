import * as hostnet from "pulumi-hostnet";

const bridge = new hostnet.Bridge("microvm", { addresses: ["10.0.0.1/24", "fd12:3456:789a::1/64"] });
const nat = new hostnet.NatGateway("nat", {
    internalInterfaces: [bridge.name],
    enableIpv6: true,
    forwardPorts: [{ sourcePort: 80, destination: "10.0.0.2" }],
});
export const externalAddresses = nat.externalAddresses;
