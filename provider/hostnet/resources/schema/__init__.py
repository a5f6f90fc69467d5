"""How a kind of resource is declared: properties, their types, and what follows from a declaration."""
