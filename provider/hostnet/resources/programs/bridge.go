package main

import (
	"MODULE"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

func main() {
	pulumi.Run(func(ctx *pulumi.Context) error {
		bridge, err := hostnet.NewBridge(ctx, "microvm", &hostnet.BridgeArgs{
			Addresses: pulumi.StringArray{pulumi.String("10.0.0.1/24"), pulumi.String("fd12:3456:789a::1/64")},
			DhcpServer: hostnet.DhcpServerArgs{
				RangeStart: pulumi.String("10.0.0.100"),
				RangeEnd:   pulumi.String("10.0.0.199"),
			},
			Ipv6SendRa: pulumi.Bool(true),
		})
		if err != nil {
			return err
		}
		ctx.Export("gateway", bridge.Gateway)
		return nil
	})
}
