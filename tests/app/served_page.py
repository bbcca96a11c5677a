"""A server of the page in a process of its own, as tests see it."""

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Served:
    url: str
    process: subprocess.Popen[str]
    temporary: Path
    """Where the server may write."""

    @property
    def megabytes(self) -> float:
        """Memory that the server's process holds now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024
