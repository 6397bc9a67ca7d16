"""The line that a measured result has of its machine."""

from __future__ import annotations

import pytest

from mindcv_ghost.report import hardware


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        ("sse4_2 avx2 avx512f", "AVX-512, "),
        ("sse4_2 avx2", "AVX2, "),
        ("sse4_2", "SSE 4.2, "),
        ("sse2", ""),
    ],
)
@pytest.mark.parametrize(("cores", "text"), [(1, "1 core"), (2, "2 cores")])
def test_the_widest_instructions_are_named(flags, level, cores, text, tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "usable_cores", lambda: cores)
    file = tmp_path / "cpuinfo"
    file.write_text(f"model name\t: Big  CPU @ 2 GHz\nflags\t\t: fpu {flags}\n" * 2)
    assert hardware.describe_hardware(str(file)) == f"Big CPU @ 2 GHz, {level}{text}"
