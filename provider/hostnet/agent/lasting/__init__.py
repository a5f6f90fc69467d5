"""What works while no provider runs: the watcher for `match`, systemd units, files that keep network daemons away."""
