"""What a benchmark ran on."""

import os
import platform
from pathlib import Path

import torch


def machine() -> str:
    """Processor, cores and torch."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text().splitlines()
        processor = next((s.split(":")[1].strip() for s in lines if "model name" in s), processor)
    return f"{processor}, {os.cpu_count()} cores, torch {torch.__version__}"
