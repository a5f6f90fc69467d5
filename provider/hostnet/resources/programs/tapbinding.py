import pulumi
import pulumi_hostnet as hostnet

bridge = hostnet.Bridge("microvm", addresses=["10.0.0.1/24"])
tap = hostnet.TapBinding("web", name="vm-web", bridge=bridge.name, owner="root", guest={"hostname": "web"})
pulumi.export("mac", tap.guest.mac_address)
pulumi.export("kernelIpArg", tap.guest.kernel_ip_arg)
