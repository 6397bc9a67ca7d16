"""Which states stay on the disk, and which one a run resumes from."""

from __future__ import annotations

import errno
import os
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindcv_ghost.errors import CheckpointError
from mindcv_ghost.storage import atomic_file, resume_folder, training_state
from mindcv_ghost.storage.resume_folder import (
    ResumeFolder,
    find_epoch_end,
    find_state,
    superseded,
)
from mindcv_ghost.storage.training_state import open_state

ARRAYS = {"weight": np.arange(100, dtype=np.float32)}


def save(run, *places):
    run.mkdir(exist_ok=True)
    folder = ResumeFolder(run / "resume")
    for epoch, step in places:
        folder.save(ARRAYS, {"place": [epoch, step]}, epoch, step)
    return sorted(path.name for path in (run / "resume").iterdir())


def test_the_newest_two_states_and_the_newest_of_an_epoch_end_stay(tmp_path):
    names = save(tmp_path, (0, 4), (1, 0), (1, 4), (1, 8), (1, 12))
    assert names == [
        "000002_epoch1_step0.safetensors",
        "000004_epoch1_step8.safetensors",
        "000005_epoch1_step12.safetensors",
    ]


def test_numbering_continues_after_a_restart_from_an_earlier_place(tmp_path):
    save(tmp_path, (1, 0), (1, 8))
    assert save(tmp_path, (1, 2))[-1] == "000003_epoch1_step2.safetensors"
    assert find_state("auto", tmp_path).facts["place"] == [1, 2]


def test_states_after_the_one_that_a_run_goes_on_from_are_put_aside(tmp_path):
    save(tmp_path, (1, 0), (1, 4), (1, 8))
    folder = tmp_path / "resume"
    first = folder / "000001_epoch1_step0.safetensors"
    given_up = ResumeFolder(folder).give_up_after(first)
    assert [path.name for path in given_up] == [
        "000002_epoch1_step4.safetensors.given_up",
        "000003_epoch1_step8.safetensors.given_up",
    ]
    assert find_state("auto", tmp_path).path == first
    assert find_state(str(given_up[1]), tmp_path).facts["place"] == [1, 8]
    # One that is put aside later takes their place.
    save(tmp_path, (1, 2))
    assert ResumeFolder(folder).give_up_after(first) == [
        folder / "000002_epoch1_step2.safetensors.given_up"
    ]
    assert sorted(path.name[:6] for path in folder.glob("*.given_up")) == ["000002"]
    assert ResumeFolder(folder).give_up_after(first) == []
    assert len(list(folder.glob("*.given_up"))) == 1


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=12))
def test_never_fewer_than_two_stay_where_there_were_two(places):
    kept = []
    for number, (epoch, step) in enumerate(places, start=1):
        kept.append(resume_folder.Path(f"{number:06d}_epoch{epoch}_step{step}.safetensors"))
        gone = superseded(kept)
        assert kept[-1] not in gone
        kept = [path for path in kept if path not in gone]
        assert len(kept) >= min(2, number)
        ends = [path for path in kept if path.stem.endswith("step0")]
        assert bool(ends) == any(step == 0 for _, step in places[:number])


def damage(path, seed):
    data = bytearray(path.read_bytes())
    if seed % 2:
        data = data[: random.Random(seed).randrange(len(data))]
    else:
        data[random.Random(seed).randrange(len(data))] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_state_is_named_and_the_one_before_it_is_used(tmp_path, caplog, seed):
    save(tmp_path, (1, 0), (1, 8))
    newest = tmp_path / "resume" / "000002_epoch1_step8.safetensors"
    damage(newest, seed)
    with caplog.at_level("WARNING"):
        assert find_state("auto", tmp_path).facts["place"] == [1, 0]
    told = [record.getMessage() for record in caplog.records]
    assert str(newest) in told[0] and "is damaged" in told[0]
    assert "the state before it is intact and used instead" in told[1]
    assert newest.with_name(newest.name + ".damaged").exists()
    # It no longer counts among those that are kept.
    assert len([n for n in save(tmp_path, (2, 0)) if n.endswith("safetensors")]) == 2


def test_a_state_that_the_system_cannot_read_keeps_its_name_and_the_one_before_it_is_used(
    tmp_path, caplog, monkeypatch
):
    save(tmp_path, (1, 0), (1, 8))
    newest = tmp_path / "resume" / "000002_epoch1_step8.safetensors"
    checked = training_state._checked_header

    def checked_header(path, file, size):
        if path == newest:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return checked(path, file, size)

    monkeypatch.setattr(training_state, "_checked_header", checked_header)
    with caplog.at_level("WARNING"):
        assert find_state("auto", tmp_path).facts["place"] == [1, 0]
    told = [record.getMessage() for record in caplog.records]
    assert told[0] == f"{newest} can't be read (Input/output error)."
    assert "the state before it is intact and used instead" in told[1] and newest.exists()


def test_for_a_damaged_file_given_by_path_the_one_before_it_is_used(tmp_path):
    save(tmp_path, (1, 0), (1, 8), (1, 9))
    damage(tmp_path / "resume" / "000002_epoch1_step8.safetensors", 1)
    path = tmp_path / "resume" / "000002_epoch1_step8.safetensors"
    assert find_state(str(path), tmp_path / "elsewhere").facts["place"] == [1, 0]


def test_damaged_states_of_another_run_keep_their_names(tmp_path):
    save(tmp_path / "other", (1, 0), (1, 8))
    damage(tmp_path / "other" / "resume" / "000002_epoch1_step8.safetensors", 1)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.safetensors")}
    assert find_state(str(tmp_path / "other"), tmp_path / "new").facts["place"] == [1, 0]
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "x" * 300 + "/resume"])
def test_a_name_that_no_file_can_have_is_told(tmp_path, name):
    with pytest.raises(CheckpointError, match="no such file, and no run folder with states"):
        find_state(name, tmp_path)


def test_if_all_states_are_damaged_an_error_lists_them(tmp_path):
    save(tmp_path, (1, 0), (1, 8))
    for path in (tmp_path / "resume").iterdir():
        damage(path, 1)
    with pytest.raises(CheckpointError, match="none of .*000001.*000002.* is intact"):
        find_state("auto", tmp_path)


def test_auto_finds_nothing_in_a_new_folder_and_a_path_must_be_there(tmp_path):
    assert find_state("auto", tmp_path) is None
    with pytest.raises(CheckpointError, match="--resume .*gone: no such file"):
        find_state(str(tmp_path / "gone"), tmp_path)
    save(tmp_path, (1, 0))
    for where in (
        tmp_path,
        tmp_path / "resume",
        tmp_path / "resume/000001_epoch1_step0.safetensors",
    ):
        assert find_state(str(where), tmp_path / "elsewhere").facts["place"] == [1, 0]


def test_find_epoch_end_finds_the_newest_epoch_end_before_a_state(tmp_path):
    save(tmp_path, (1, 0), (1, 4), (1, 8))
    state = find_state("auto", tmp_path)
    assert find_epoch_end(state).facts["place"] == [1, 0]


def test_a_save_that_fails_half_way_leaves_the_state_before_it(tmp_path, monkeypatch):
    save(tmp_path, (1, 0), (1, 8))
    written = []

    def full(file, piece):
        if written:
            raise OSError(28, "No space left on device")
        written.append(file.write(piece[:100]))
        return 100

    monkeypatch.setattr(atomic_file, "_write", full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, (2, 0))
    monkeypatch.undo()
    assert written == [100]
    names = sorted(path.name for path in (tmp_path / "resume").iterdir())
    assert names == ["000001_epoch1_step0.safetensors", "000002_epoch1_step8.safetensors"]
    assert open_state(tmp_path / "resume" / names[1]).facts["place"] == [1, 8]


def test_temporary_files_of_a_killed_save_are_removed(tmp_path):
    save(tmp_path, (1, 0))
    leftover = tmp_path / "resume" / ".000002_epoch1_step8.safetensors.12ab34cd.tmp"
    leftover.write_bytes(b"half")
    assert save(tmp_path, (1, 8)) == [
        "000001_epoch1_step0.safetensors",
        "000002_epoch1_step8.safetensors",
    ]
    assert training_state.SCHEMA == 1
