"""Packages of exports do not report what is done with them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONVERT = """
import socket
import numpy as np, torch
from ossa.export.graph import require

def refuse(*_, **__):
    raise AssertionError("asked for the network")

socket.getaddrinfo = socket.socket.connect = refuse
openvino, nncf = (require(package, purpose="this test") for package in ("openvino", "nncf"))
network = torch.nn.Conv2d(3, 4, 1)
model = openvino.convert_model(network, example_input=torch.zeros(1, 3, 8, 8))
nncf.quantize(model, nncf.Dataset([np.zeros((1, 3, 8, 8), np.float32)]), subset_size=1)

from nncf.telemetry.wrapper import telemetry
from openvino.tools.ovc import telemetry_stub, telemetry_utils
assert telemetry_utils.tm is telemetry_stub
print(type(telemetry).__name__)
"""


@pytest.mark.slow
def test_a_conversion_and_int8_leave_nothing_in_the_home_and_call_nobody(tmp_path: Path) -> None:
    pytest.importorskip("nncf", reason="needs the extra openvino")
    # Where there is CI, the packages report nothing by themselves.
    environment = {key: value for key, value in os.environ.items() if key not in ("CI", "NNCF_CI")}
    ended = subprocess.run(
        [sys.executable, "-c", CONVERT],
        env={**environment, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "MagicMock"
    assert not list(tmp_path.rglob("*ga_cid*"))
