package main

import (
	"MODULE"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

func main() {
	pulumi.Run(func(ctx *pulumi.Context) error {
		host, err := hostnet.NewMicroVmHost(ctx, "microvm", &hostnet.MicroVmHostArgs{
			Forwards: hostnet.ForwardPortArray{
				hostnet.ForwardPortArgs{SourcePort: pulumi.Int(80), Destination: pulumi.String("10.0.0.2")},
				hostnet.ForwardPortArgs{SourcePort: pulumi.Int(443), Destination: pulumi.String("10.0.0.3")},
			},
		})
		if err != nil {
			return err
		}
		ctx.Export("addresses", host.ExternalAddresses)
		return nil
	})
}
