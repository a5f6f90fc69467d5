module ${PROJECT}

go 1.24

require (
	github.com/pulumi-hostnet/pulumi-hostnet/sdk/go/hostnet v0.1.0
	github.com/pulumi/pulumi/sdk/v3 v3.150.0
)
