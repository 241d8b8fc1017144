"""A state, through files at any number of trainers, comes back bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import Linear

from surefoot.errors import CheckpointError
from surefoot_actors.checkpoint import shares
from surefoot_actors.checkpoint.export import export_modules
from surefoot_actors.checkpoint.manifest import make_manifest
from surefoot_actors.checkpoint.read import read_checkpoint
from surefoot_actors.checkpoint.shares import TensorSpec, keys, parts_of
from surefoot_actors.checkpoint.storage import Storage
from surefoot_actors.checkpoint.store import CheckpointStore, read_manifest
from surefoot_actors.engine.state.tracked import Tracked
from surefoot_actors.local_run.run_local import run_local

from .kit import CPU, FINGERPRINT, IDENTITY, Awkward, save, tracked, train


@pytest.mark.parametrize("cut_bytes", [1 << 20, 100])
@pytest.mark.parametrize("of", [1, 2, 3])
def test_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of: int, cut_bytes: int) -> None:
    monkeypatch.setattr(shares, "CUT_BYTES", cut_bytes)
    owner, other = tracked(1, steps=4), tracked(2, steps=1)
    assert owner.digest() != other.digest()
    url = save(CheckpointStore(str(tmp_path)), owner, of)
    checkpoint = read_checkpoint(url, IDENTITY, FINGERPRINT)
    other.check_image(checkpoint.image)
    other.restore(checkpoint.image)
    assert other.tensor_digests() == owner.tensor_digests()
    assert other.digest() == owner.digest()
    sizes = [share.file.bytes for share in checkpoint.manifest.shares]
    assert max(sizes) < 1.7 * sum(sizes) / of, "the shares are not of about equal size"
    assert any(t.rows for s in checkpoint.manifest.shares for t in s.tensors) == (of > 1 and cut_bytes == 100)


def test_the_files_are_safetensors(tmp_path: Path) -> None:
    """The library itself reads them, under their names, dtypes and shapes."""
    owner = tracked(1, steps=2)
    url = Path(save(CheckpointStore(str(tmp_path)), owner, of=2))
    read: dict[str, torch.Tensor] = {}
    for file in url.glob("*.safetensors"):
        read |= safetensors.torch.load_file(file)
    for entry in owner.survey().entries:
        assert read[entry.name].dtype == entry.tensor.dtype
        assert torch.equal(read[entry.name], entry.tensor), entry.name


def test_a_dtype_that_the_format_does_not_know(tmp_path: Path) -> None:
    owner, other = (Tracked({"model": Linear(3, 5, dtype=torch.complex128)}, CPU) for _ in range(2))
    checkpoint = read_checkpoint(save(CheckpointStore(str(tmp_path)), owner, of=2), IDENTITY, FINGERPRINT)
    other.restore(checkpoint.image)
    assert other.digest() == owner.digest()


@given(
    st.lists(
        st.tuples(
            st.sampled_from([torch.float32, torch.bool, torch.complex128]), st.lists(st.integers(0, 9), max_size=3)
        ),
        max_size=8,
    ),
    st.integers(1, 6),
    st.sampled_from([1, 40, 10_000]),
)
def test_every_row_of_every_tensor_is_in_one_share(kinds: list[Any], of: int, cut_bytes: int) -> None:
    before, shares.CUT_BYTES = shares.CUT_BYTES, cut_bytes
    try:
        specs = [TensorSpec("t", dtype, tuple(shape)) for dtype, shape in kinds]
        parts = [part for share in range(of) for part in parts_of(specs, share, of)]
    finally:
        shares.CUT_BYTES = before
    assert len(set(keys(specs))) == len(specs)
    for number, spec in enumerate(specs):
        own = [part for part in parts if part.number == number]
        assert sum(part.nbytes for part in own) == spec.nbytes
        if len(own) == 1:
            assert own[0].rows is None
        else:
            assert [row for part in own for row in range(*(part.rows or (0, 0)))] == list(range(spec.shape[0]))


def test_shares_that_are_not_of_one_state_make_no_checkpoint(tmp_path: Path) -> None:
    store, owner = CheckpointStore(str(tmp_path)), tracked(1)
    two = [s.model_dump_json() for s in read_manifest(save(store, owner, of=2)).shares]
    other = [s.model_dump_json() for s in read_manifest(save(store, owner, of=2, step=4)).shares]
    for entries in ([], two[:1], [two[0], two[0]], [two[0], other[1]], two):  # the last: without share 0's head
        with pytest.raises(CheckpointError):
            make_manifest(IDENTITY, entries)


def test_the_exported_model_loads_to_the_same_bits(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model, other = Awkward(), Awkward()
    (file,) = export_modules(Storage(str(tmp_path)), {"model": model})
    loaded = safetensors.torch.load_file(tmp_path / file.path)
    assert ("head.weight" in loaded) + ("embed.weight" in loaded) == 1, "the tied weight is not there once"
    assert "hidden" not in loaded, "no persistent buffer"
    other.load_state_dict(loaded, strict=False)
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def test_run_local_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    whole = run_local(train(9), batch_size=32, seed=3)
    first = run_local(train(7), batch_size=32, seed=3, checkpoint=str(tmp_path), checkpoint_every=2)
    found = CheckpointStore(str(tmp_path)).found()
    assert [f.step for f in found] == [7, 6, 4, 2]
    assert (tmp_path / "model" / "model.safetensors").exists()
    for url in (str(tmp_path), found[2].url):
        rest = run_local(train(9), batch_size=32, seed=3, restore=url)
        assert rest.digest == whole.digest
        assert [r.result for r in rest.rows] == [r.result for r in whole.rows]
    assert first.digest != whole.digest
