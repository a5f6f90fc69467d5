"""The state of a host, as data: the state of each object, facts, status, doctor.

Nothing here changes a host.
"""
