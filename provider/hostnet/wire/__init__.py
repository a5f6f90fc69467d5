"""What crosses between the provider and the agent: objects, requests, errors. Standard library only, Python 3.9."""
