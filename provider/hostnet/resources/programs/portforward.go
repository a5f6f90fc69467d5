package main

import (
	"MODULE"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

func main() {
	pulumi.Run(func(ctx *pulumi.Context) error {
		bridge, err := hostnet.NewBridge(ctx, "microvm", &hostnet.BridgeArgs{
			Addresses: pulumi.StringArray{pulumi.String("10.0.0.1/24")},
		})
		if err != nil {
			return err
		}
		nat, err := hostnet.NewNatGateway(ctx, "nat", &hostnet.NatGatewayArgs{
			InternalInterfaces: pulumi.StringArray{bridge.Name},
		})
		if err != nil {
			return err
		}
		web, err := hostnet.NewPortForward(ctx, "web", &hostnet.PortForwardArgs{
			NatGateway:  nat.ID(),
			SourcePort:  pulumi.Int(8080),
			Destination: pulumi.String("10.0.0.2:80"),
		})
		if err != nil {
			return err
		}
		ctx.Export("web", web.SourcePorts)
		return nil
	})
}
