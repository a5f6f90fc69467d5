"""How a kind of resource is declared: its properties and their types.

Checks, diffs, schema.json and the reference pages follow from the declaration.
"""
