"""The same stacks without a worker: `pulumi up -s north`, and what the Kubernetes operator runs."""

import json
from pathlib import Path

import pulumi
from network import networks

fleet = json.loads(Path(__file__).with_name("fleet.json").read_text())
networks(fleet["groups"][pulumi.get_stack()], **fleet["network"])
