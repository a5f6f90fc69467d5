"""What hostnet holds on a host, written down: owners, the record file, and the network namespace that it belongs to."""
