"""What hostnet manages on a host, written down: the owners and their objects, in one file.

The file belongs to the machine or to one network namespace, and survives the agent.
"""
