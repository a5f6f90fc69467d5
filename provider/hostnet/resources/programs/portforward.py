import pulumi
import pulumi_hostnet as hostnet

bridge = hostnet.Bridge("microvm", addresses=["10.0.0.1/24"])
nat = hostnet.NatGateway("nat", internal_interfaces=[bridge.name])
web = hostnet.PortForward("web", nat_gateway=nat.id, source_port=8080, destination="10.0.0.2:80")
pulumi.export("web", web.source_ports)
