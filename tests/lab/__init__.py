"""The kernel-test laboratory: namespaces, probes, a standard topology, and a small engine that applies resources."""
