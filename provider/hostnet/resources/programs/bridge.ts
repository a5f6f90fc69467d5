import * as hostnet from "pulumi-hostnet";

const bridge = new hostnet.Bridge("microvm", {
    addresses: ["10.0.0.1/24", "fd12:3456:789a::1/64"],
    dhcpServer: { rangeStart: "10.0.0.100", rangeEnd: "10.0.0.199" },
    ipv6SendRa: true,
});
export const gateway = bridge.gateway;
