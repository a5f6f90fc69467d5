import * as hostnet from "pulumi-hostnet";

const bridge = new hostnet.Bridge("microvm", { addresses: ["10.0.0.1/24"] });
const nat = new hostnet.NatGateway("nat", { internalInterfaces: [bridge.name] });
const forward = new hostnet.PortForward("web", {
    natGateway: nat.id,
    sourcePort: 8080,
    destination: "10.0.0.2:80",
});
export const web = forward.sourcePorts;
