"""From a Connection to a session with the host it names: one long-lived agent a host, with a queue in front."""
