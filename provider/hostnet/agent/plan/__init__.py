"""Pure decisions: resolve a change against what the host has, and plan the operations on links. No IO."""
