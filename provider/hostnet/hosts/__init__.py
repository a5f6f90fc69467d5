"""From a `Connection` to a session with the host it names, on this machine or over SSH.

A session is one long-lived agent process with a queue in front of it.
"""
