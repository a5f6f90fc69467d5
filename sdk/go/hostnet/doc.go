// A Linux host's network in a Pulumi stack: bridges, TAPs of microVMs, NAT, port forwards.
package hostnet
