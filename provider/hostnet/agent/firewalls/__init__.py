"""Other people's firewalls: find the chains that would drop our traffic, and keep a tagged accept rule in each."""
