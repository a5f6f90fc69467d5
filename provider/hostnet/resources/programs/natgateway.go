package main

import (
	"MODULE"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

func main() {
	pulumi.Run(func(ctx *pulumi.Context) error {
		bridge, err := hostnet.NewBridge(ctx, "microvm", &hostnet.BridgeArgs{
			Addresses: pulumi.StringArray{pulumi.String("10.0.0.1/24"), pulumi.String("fd12:3456:789a::1/64")},
		})
		if err != nil {
			return err
		}
		nat, err := hostnet.NewNatGateway(ctx, "nat", &hostnet.NatGatewayArgs{
			InternalInterfaces: pulumi.StringArray{bridge.Name},
			EnableIpv6:         pulumi.Bool(true),
			ForwardPorts: hostnet.ForwardPortArray{
				hostnet.ForwardPortArgs{SourcePort: pulumi.Int(80), Destination: pulumi.String("10.0.0.2")},
			},
		})
		if err != nil {
			return err
		}
		ctx.Export("externalAddresses", nat.ExternalAddresses)
		return nil
	})
}
