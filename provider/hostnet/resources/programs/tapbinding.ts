import * as hostnet from "pulumi-hostnet";

const bridge = new hostnet.Bridge("microvm", { addresses: ["10.0.0.1/24"] });
const tap = new hostnet.TapBinding("web", {
    name: "vm-web",
    bridge: bridge.name,
    owner: "root",
    guest: { hostname: "web" },
});
export const mac = tap.guest.macAddress;
export const kernelIpArg = tap.guest.kernelIpArg;
