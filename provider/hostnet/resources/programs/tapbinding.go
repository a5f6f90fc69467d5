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
		tap, err := hostnet.NewTapBinding(ctx, "web", &hostnet.TapBindingArgs{
			Name:   pulumi.String("vm-web"),
			Bridge: bridge.Name,
			Owner:  pulumi.String("root"),
			Guest:  hostnet.GuestArgs{Hostname: pulumi.String("web")},
		})
		if err != nil {
			return err
		}
		ctx.Export("mac", tap.Guest.MacAddress())
		ctx.Export("kernelIpArg", tap.Guest.KernelIpArg())
		return nil
	})
}
