"""Collections that are quick to look through, to copy and to compare, however much is in them. They know no network."""
