"""What is said of a feature that the kernel lacks."""

from __future__ import annotations

import errno

import pytest
from hostnet.agent.linux import operations as ops
from hostnet.agent.transaction.kernel_errors import kernel_error


@pytest.mark.parametrize(
    ("operation", "feature"),
    [
        (ops.SetBridgeOption("br0", "vlan_filtering", value=True), "CONFIG_BRIDGE_VLAN_FILTERING, for vlanFiltering"),
        (ops.CreateBridge("br0", vlan_filtering=True), "CONFIG_BRIDGE_VLAN_FILTERING, for vlanFiltering"),
        (ops.CreateBridge("br0"), "no bridges (CONFIG_BRIDGE). "),
        (ops.CreateTap("tap0"), "TAPs (CONFIG_TUN)"),
        (ops.AddAddress("br0", "fd12::1/64"), "IPv6 (CONFIG_IPV6)"),
        (ops.SetLink("tap0", isolated=True), "support for it (set isolation of tap0)"),
    ],
)
def test_the_feature_has_a_name(operation: ops.Operation, feature: str) -> None:
    """With the kernel's build option."""
    text = str(kernel_error(operation, OSError(errno.EOPNOTSUPP, "")))
    assert text.startswith(f"cannot {operation}: ENOTSUP: Operation not supported. This kernel has no ")
    assert feature in text
