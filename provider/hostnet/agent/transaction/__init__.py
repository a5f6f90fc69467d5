"""One step that changes the host: admit the changes, apply them, have them confirmed, or undo them.

`host` is the entry; `apply` performs, `commit_confirm` undoes what no provider confirms, `queries` answers reads.
"""
