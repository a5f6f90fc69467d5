"""Firewalls of other programs: find the base chains that would drop our traffic, and keep an accept rule in each.

The rules carry a comment by which they are found again, and go with the last owner that needs them.
"""
