"""What is on the host, as data: the state of each object, facts, status, doctor. Nothing here changes a host."""
