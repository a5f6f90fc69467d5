"""What crosses between the provider and the agent: objects, requests, errors.

It travels to a host with the agent, so it imports the standard library alone and has the syntax of Python 3.9.
"""
