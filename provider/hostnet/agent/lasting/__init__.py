"""What works while no provider runs: the watcher for `match`, and the systemd units that start it again at boot.

The files that keep network daemons off our interfaces are here as well.
"""
