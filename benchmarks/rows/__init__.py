"""A module for each row of the table: what it measures, and `measure`, which does it and gives the row's figures."""
