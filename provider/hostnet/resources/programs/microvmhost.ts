import * as hostnet from "pulumi-hostnet";

const host = new hostnet.MicroVmHost("microvm", {
    forwards: [
        { sourcePort: 80, destination: "10.0.0.2" },
        { sourcePort: 443, destination: "10.0.0.3" },
    ],
});
export const addresses = host.externalAddresses;
