import * as hostnet from "pulumi-hostnet";
import * as pulumi from "@pulumi/pulumi";

export async function network(): Promise<{ mac: pulumi.Output<string>; tap: pulumi.Output<string> }> {
    const connection = { netns: process.env.HOST };
    const bridge = new hostnet.Bridge("net", { addresses: ["10.0.0.1/24", "fd12::1/64"], connection });
    const web = new hostnet.TapBinding("web", { bridge: bridge.name, guest: { hostname: "web" }, connection });
    const nat = new hostnet.NatGateway("nat", {
        internalInterfaces: [bridge.name],
        externalInterface: "eth0",
        enableIpv6: true,
        firewall: "auto",
        connection,
    });
    new hostnet.PortForward("http", {
        natGateway: nat.id,
        protocol: hostnet.types.enums.Protocol.Tcp,
        sourcePort: 80,
        destination: web.guest.addresses[0].apply((cidr) => cidr.split("/")[0]),
        connection,
    });
    return { mac: web.guest.macAddress, tap: web.name };
}
