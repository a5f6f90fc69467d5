import pulumi
import pulumi_hostnet as hostnet

host = hostnet.MicroVmHost(
    "microvm",
    forwards=[
        {"source_port": 80, "destination": "10.0.0.2"},
        {"source_port": 443, "destination": "10.0.0.3"},
    ],
)
pulumi.export("addresses", host.external_addresses)
