// The network of a microVM host: a bridge, guests whose TAPs are named vm-*, NAT, ports that lead to a guest.
package main

import (
	"fmt"

	"github.com/pulumi-hostnet/pulumi-hostnet/sdk/go/hostnet"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

func main() {
	pulumi.Run(func(ctx *pulumi.Context) error {
		bridge, err := hostnet.NewBridge(ctx, "microvm", &hostnet.BridgeArgs{
			Addresses: pulumi.StringArray{pulumi.String("10.0.0.1/24"), pulumi.String("fd12:3456:789a::1/64")},
			DhcpServer: hostnet.DhcpServerArgs{
				StaticLeases: hostnet.StaticLeaseArray{hostnet.StaticLeaseArgs{
					MacAddress: pulumi.String("02:00:00:00:00:02"),
					Address:    pulumi.String("10.0.0.2"),
					Hostname:   pulumi.String("web"),
				}},
			},
			Ipv6SendRa: pulumi.Bool(true),
		})
		if err != nil {
			return err
		}
		// Every interface named like this is attached, now and later: a VMM creates them.
		_, err = hostnet.NewTapBinding(ctx, "guests", &hostnet.TapBindingArgs{
			Match:  pulumi.String("vm-*"),
			Bridge: bridge.Name,
		})
		if err != nil {
			return err
		}
		nat, err := hostnet.NewNatGateway(ctx, "nat", &hostnet.NatGatewayArgs{
			InternalInterfaces: pulumi.StringArray{bridge.Name},
			EnableIpv6:         pulumi.Bool(true),
		})
		if err != nil {
			return err
		}
		for _, port := range []int{80, 443} {
			_, err = hostnet.NewPortForward(ctx, fmt.Sprintf("web-%d", port), &hostnet.PortForwardArgs{
				NatGateway:  nat.ID(),
				SourcePort:  pulumi.Int(port),
				Destination: pulumi.String("10.0.0.2"),
			})
			if err != nil {
				return err
			}
		}
		ctx.Export("bridge", bridge.Name)
		ctx.Export("gateway", bridge.Gateway)
		ctx.Export("externalAddresses", nat.ExternalAddresses)
		return nil
	})
}
