"""Pure decisions: resolve a change against the state of the host, and plan the operations on links.

No IO happens here, so golden cases (data in, decision out) test all of it.
"""
