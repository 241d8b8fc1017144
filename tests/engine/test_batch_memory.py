"""A batch is the same whoever made it: values, strides, alignment, and whose memory it is."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import TensorDataset, default_collate

from surefoot_actors.engine.data.datasets import fetcher
from surefoot_actors.engine.data.memory import settle
from surefoot_actors.engine.data.packing import carry, pack

from .loading import described, loaded

Pair = namedtuple("Pair", "x y")


@dataclass
class Sample:
    x: torch.Tensor
    y: list[Any]


class Numbers:
    """Samples whose values are functions of their number, and of the memory that they once had."""

    def __init__(self, shape: tuple[int, ...] = (5,)) -> None:
        self.x = torch.arange(40.0 * int(np.prod(shape))).sin().reshape(40, *shape)

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Any:
        return self.x[index], index


def odd(rows: list[Any]) -> torch.Tensor:
    """Make a tensor at an odd multiple of its element's size."""
    x = torch.stack([x for x, _ in rows])
    memory = np.empty(x.nbytes + 68, np.uint8)
    at = -memory.__array_interface__["data"][0] % 64 + 4
    array = memory[at : at + x.nbytes].view(np.float32).reshape(x.shape)
    array[...] = x.numpy()
    return torch.from_numpy(array)


def from_buffer(rows: list[Any]) -> torch.Tensor:
    x = torch.stack([x for x, _ in rows]).contiguous()
    return torch.frombuffer(bytearray(b"abcd" + x.numpy().tobytes()), dtype=torch.float32, offset=4).view(x.shape)


def stacked(rows: list[Any]) -> torch.Tensor:
    return torch.stack([x for x, _ in rows])


def numbered(rows: list[Any]) -> torch.Tensor:
    return torch.tensor([y for _, y in rows])


def twice(rows: list[Any]) -> Any:
    x = stacked(rows)
    return x, x, x[1:], {"again": [x, (x[:, ::2],)]}


def looped(rows: list[Any]) -> Any:
    items: list[Any] = [stacked(rows)]
    items.append(items[0])
    return items


COLLATES: dict[str, Callable[[list[Any]], Any]] = {
    "default": default_collate,
    "odd": odd,
    "from_buffer": from_buffer,
    "tensor": stacked,
    "view": lambda rows: stacked(rows)[1:, 1:],
    "gaps": lambda rows: stacked(rows)[:, ::2],
    "transposed": lambda rows: stacked(rows).t() if stacked(rows).dim() == 2 else stacked(rows).transpose(1, 3),
    "expanded": lambda rows: stacked(rows)[:, :1].expand(-1, 7, *stacked(rows).shape[2:]),
    "twice": twice,
    "looped": looped,
    "empty": lambda rows: (torch.empty(0, 3), np.empty((0, 2)), [], {}, ()),
    "scalar": lambda rows: (stacked(rows).sum(), 3, 2.5, "text", None, b"raw", np.float32(1.5)),
    "mixed": lambda rows: {"x": [odd(rows), numbered(rows).bool()], "n": (numbered(rows).to(torch.bfloat16), 4)},
    "named": lambda rows: Pair(odd(rows), numbered(rows)),
    "ordered": lambda rows: OrderedDict(b=odd(rows), a=numbered(rows)),
    "dataclass": lambda rows: Sample(odd(rows), [numbered(rows), Sample(stacked(rows), [])]),
    "arrays": lambda rows: [odd(rows).numpy(), np.asfortranarray(stacked(rows).numpy()), odd(rows).numpy()[:, ::2]],
    "other arrays": lambda rows: [np.array(["a", "bc"]), np.array([None, 3], dtype=object), np.float16([1, 2])],
    "complex": lambda rows: torch.complex(stacked(rows), odd(rows)).conj(),
    "wants gradients": lambda rows: (odd(rows).requires_grad_(), nn.Parameter(odd(rows)), nn.Parameter(odd(rows), False)),
    "as it is": lambda rows: rows[0][0],
    "list": lambda rows: [x for x, _ in rows],
    "large": lambda rows: [default_collate(rows * 200), torch.cat([stacked(rows)] * 200)[3:]],
}  # fmt: skip


# these are copied as data workers would send them
OTHERS = {"scalar", "named", "ordered", "dataclass", "other arrays"}


@pytest.mark.parametrize("names", [[n for n in COLLATES if n not in OTHERS], list(COLLATES)], ids=["usual", "all"])
@pytest.mark.parametrize("shape", [(5,), (2, 3, 4)], ids=["flat", "image"])
def test_a_batch_is_the_same_whoever_made_it(names: list[str], shape: tuple[int, ...]) -> None:
    def collate(rows: list[Any]) -> Any:
        return {name: COLLATES[name](rows) for name in names}

    data = Numbers(shape)
    if len(shape) == 3:
        data.x = data.x.to(memory_format=torch.channels_last)
    inline, one, two = (loaded(data, lambda step: collate, data_workers=n, num_steps=2) for n in (0, 1, 2))
    assert inline == one == two
    assert all(alignments(batch) <= {0} for batch in inline), "handed out at an odd address"


def alignments(said: Any) -> set[int]:
    """Every alignment in what `described` says."""
    if isinstance(said, tuple) and said and said[0] in ("Tensor", "Parameter"):
        return {said[5]} if said[-1] else set()
    if isinstance(said, tuple) and said and said[0] == "ndarray":
        return {said[5]}
    return set().union(*(alignments(s) for s in said)) if isinstance(said, tuple | list) else set()


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), (1, 200, 200), (3, 100, 100)], ids=str)
@pytest.mark.parametrize("layout", ["rows", "channels last", "one column"])
def test_samples_collated_by_torch_keep_their_strides(shape: tuple[int, ...], layout: str) -> None:
    """In a DataLoader's worker, torch collates into row-major memory, elsewhere into that of the samples."""

    class Strided(Numbers):
        def __getitem__(self, index: int) -> Any:
            x = self.x[index]
            if layout == "channels last":
                x = x.movedim(0, -1).contiguous().movedim(-1, 0)
            if layout == "one column":
                x = x.unsqueeze(0).transpose(0, -1).contiguous().transpose(0, -1).squeeze(0)
            return {"x": x, "i": index, "pair": (x, x.double())}

    one, other = (loaded(Strided(shape), data_workers=n, num_steps=2) for n in (0, 1))
    assert one == other


def test_large_collated_batches_change_hands_and_small_or_changed_ones_too() -> None:
    """A part of it, a copy of it, the same twice, one that was thrown away."""

    def collate(rows: list[Any]) -> Any:
        default_collate(rows * 100)  # its memory must not be taken for another's
        x = default_collate([x for x, _ in rows] * 100)
        y = default_collate([-x for x, _ in rows] * 100)
        x.mul_(2)
        return [x, x[:300], y[5:], y, [x.clone(), y[0]], x]

    data = Numbers((11, 13))
    inline, workers = (loaded(data, lambda step: collate, data_workers=n, num_steps=3) for n in (0, 2))
    assert inline == workers


@pytest.mark.parametrize("data_workers", [0, 1])
@pytest.mark.parametrize("name", ["as it is", "list", "large", "nested", "array", "named", "lone list"])
def test_changing_a_batch_in_place_changes_nothing_else(name: str, data_workers: int) -> None:
    """Neither the dataset, whose own memory a collate may hand out, nor another part of the batch."""

    class Own(Numbers):
        def __init__(self) -> None:
            super().__init__()
            self.rows = [[x, {"x": x}] for x in torch.ones(40, 30_000)]
            self.tensors = [[torch.full((20_000,), float(i))] for i in range(40)]
            self.array = np.ones((40, 3), np.float32)

        def __getitem__(self, index: int) -> Any:
            return self.x[index], index, self.rows[index], self.array[index], self.tensors[index]

    pick: dict[str, Callable[[list[Any]], Any]] = {
        "as it is": lambda rows: [rows[0][0]],
        "list": lambda rows: [row[0] for row in rows],
        "large": lambda rows: rows[0][2],
        "nested": lambda rows: (rows[0][2][1], rows[0][2]),
        "array": lambda rows: [rows[0][3]],
        "named": lambda rows: Pair(rows[0][0], rows[0][2]),
        # held by nobody but a list, which is the dataset's
        "lone list": lambda rows: rows[0][4],
    }

    def spoil(value: Any) -> Any:
        said = described(value)
        for part in tensors(value):
            part *= -3
        return said

    data = Own()
    before = described([data.x, data.rows, data.array, data.tensors])
    seen = loaded(data, lambda step: pick[name], data_workers=data_workers, num_steps=12, use=spoil)
    assert seen == loaded(Own(), lambda step: pick[name], data_workers=0, num_steps=12)
    assert described([data.x, data.rows, data.array, data.tensors]) == before


def tensors(value: Any) -> list[Any]:
    if isinstance(value, torch.Tensor | np.ndarray):
        return [value]
    parts = value.values() if isinstance(value, dict) else value
    return [t for part in parts for t in tensors(part)] if isinstance(value, dict | list | tuple) else []


def test_what_cannot_be_pickled_is_handed_out_inline_with_its_tensors_in_memory_of_their_own() -> None:
    helper = lambda: 1  # noqa: E731
    x = torch.arange(9.0)[1:]
    settled = settle([[x, {"f": helper}, (x,)]], carry)
    assert settled[1]["f"] is helper
    assert settled[0].data_ptr() % 64 == 0
    assert settled[0].data_ptr() != x.data_ptr()
    assert settled[0] is settled[2][0]


def test_a_large_batch_that_nobody_else_has_is_not_copied() -> None:
    memory = []

    def collate() -> list[Any]:
        x = torch.ones(20_000)
        memory.append(x.data_ptr())
        return [x, {"y": 2 * x}]

    settled = settle([collate()], carry)
    assert settled[0].data_ptr() == memory[0]


def strided() -> st.SearchStrategy[torch.Tensor]:
    """Tensors of any strides: permuted, with gaps, expanded, at any offset."""

    def make(
        shape: list[int], order: list[int], steps: list[int], expand: bool, offset: int, dtype: torch.dtype
    ) -> torch.Tensor:
        memory = torch.arange(float(offset + int(np.prod(shape)) * int(np.prod(steps)) + 1)).to(dtype)[offset:]
        x = memory[: int(np.prod(shape)) * int(np.prod(steps))].reshape(
            [n * s for n, s in zip(shape, steps, strict=True)]
        )
        x = x[tuple(slice(None, None, s) for s in steps)].permute(order)
        return x[..., :1].expand(*x.shape[:-1], 3) if expand else x

    return st.integers(1, 4).flatmap(
        lambda dim: st.builds(
            make,
            st.lists(st.integers(1, 4), min_size=dim, max_size=dim),
            st.permutations(range(dim)),
            st.lists(st.integers(1, 2), min_size=dim, max_size=dim),
            st.booleans(),
            st.integers(0, 3),
            st.sampled_from([torch.float32, torch.int64, torch.bool, torch.bfloat16, torch.complex64, torch.uint8]),
        )
    )


def nested(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves | st.integers() | st.text(max_size=3) | st.none(),
        lambda parts: (
            st.lists(parts, max_size=3)
            | st.tuples(parts, parts)
            | st.dictionaries(st.text(max_size=2), parts, max_size=3)
            | st.builds(Pair, parts, parts)
        ),
        max_leaves=6,
    )


@settings(max_examples=150, deadline=None)
@given(nested(strided()))
def test_settled_batches_are_carried_ones(batch: Any) -> None:
    """What the training thread makes of a batch is what arrives from a data worker; once more changes nothing."""
    inline, sent = settle([batch], carry), carry(batch)
    assert described(inline) == described(sent)
    assert described(carry(inline)) == described(sent)
    assert values(described(inline)) == values(described(batch))
    assert alignments(described(sent)) <= {0}


def values(said: Any) -> Any:
    """What `described` says of content, without strides and addresses."""
    if isinstance(said, tuple) and said and said[0] == "Tensor":
        return (said[1], said[2], said[-1])
    return [values(s) for s in said] if isinstance(said, tuple | list) else said


def test_plain_datasets_hand_out_aligned_copies(tmp_path: Any) -> None:
    memory = np.zeros(4 + 40 * 12, np.uint8)[4:].view(np.float32).reshape(40, 3)
    memory[...] = np.arange(120).reshape(40, 3)
    memory.tofile(tmp_path / "m")
    for data in (
        memory,
        np.memmap(tmp_path / "m", np.float32, "r", shape=(40, 3)),
        memory.astype(">f4"),
        memory.astype(np.uint8),
    ):
        for num in range(1, 12):
            batch = fetcher(data, None)[0](torch.arange(num) * 3)
            assert batch.data_ptr() % 64 == 0
            assert batch.tolist() == memory[::3][:num].tolist()


def test_plain_datasets_are_read_as_they_are() -> None:
    """A TensorDataset or an array that the loop changes, in place or by putting other tensors there."""
    data = TensorDataset(torch.arange(12.0))

    def before(step: int) -> None:
        data.tensors[0].add_(100)
        if step == 2:
            data.tensors = (torch.arange(6.0),)

    seen = [
        loaded(data, data_workers=n, before=before, use=lambda b: b[0].tolist(), num_steps=4, batch_size=4)
        for n in (0, 2)
    ]
    assert [sorted(len({x // 100 for x in part}) for part in parts) for parts in seen] == [[1] * 8] * 2
    assert max(seen[0][-1]) < 300


def test_gradients_flow_to_a_tensor_dataset() -> None:
    codes = nn.Parameter(torch.ones(8, 2))
    (batch,) = fetcher(TensorDataset(codes), None)[0](torch.tensor([1, 1, 5]))
    batch.sum().backward()
    assert codes.grad is not None
    assert codes.grad[:, 0].tolist() == [0, 2, 0, 0, 0, 1, 0, 0]


def test_nothing_of_a_batch_is_pickled_with_its_surroundings() -> None:
    """A view of a few elements sends those, not all that lies around them."""
    packed = pack([torch.zeros(1 << 20)[:3], np.zeros(1 << 20)[5:6]])
    assert sum(piece.nbytes for piece in packed.pieces) == 20
