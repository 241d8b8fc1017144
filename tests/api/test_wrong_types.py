"""Whatever a program gives to the SDK, of whatever type: it is taken, or refused by an error of Surefoot's own that says what is taken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import surefoot
from surefoot import AsyncClient, Client, Job
from surefoot.errors import OptionError, SurefootError, UserError
from surefoot.submission import SubmitOptions
from surefoot.trackers import track

from .conftest import JOB


class Odd:
    """A value of a type that nobody has heard of."""


WRONG: dict[str, Any] = {
    "nothing": None,
    "a number": 5,
    "below zero": -1,
    "a fraction": 1.5,
    "no number": float("nan"),
    "true": True,
    "bytes": b"x",
    "an object": Odd(),
    "a class": Odd,
    "a function": len,
    "a list": [],
    "a list of numbers": [5],
    "a list of lists": [[["x"]]],
    "a dict": {},
    "a dict of numbers": {5: 5},
    "a dict of bytes": {"x": b"y"},
    "a tuple": (),
    "an endless one": iter(int, 1),
    "no text": "",
    "a zero": "\0",
    "half a character": "\ud800",
    "a long text": "x" * 10_000,
    "a path": Path("x"),
    "a huge number": 10**400,
}


# what takes something, by what that is
Given = Callable[[Any, Path, Any], Any]


def _of_submit(name: str) -> Given:
    return lambda client, code, x: client.submit("train:train", **({"folder": code, "batch_size": 64} | {name: x}))


def _of_submit_from(name: str) -> Given:
    return lambda client, code, x: client.submit_from(JOB, **{name: x})


def _of_logs(name: str) -> Given:
    return lambda job, tmp, x: job.logs(**{name: x})


OF_A_CLIENT: dict[str, Given] = {
    "submit train": lambda client, code, x: client.submit(x, folder=code, batch_size=64),
    **{f"submit {name}": _of_submit(name) for name in SubmitOptions.__annotations__},
    "submit_from job": lambda client, code, x: client.submit_from(x),
    **{f"submit_from {name}": _of_submit_from(name) for name in SubmitOptions.__annotations__},
    "job": lambda client, code, x: client.job(x),
    "jobs state": lambda client, code, x: client.jobs(state=x),
    "jobs limit": lambda client, code, x: client.jobs(limit=x),
    "delete": lambda client, code, x: client.delete(x),
    "secrets.set name": lambda client, code, x: client.secrets.set(x, "a value of some length"),
    "secrets.set value": lambda client, code, x: client.secrets.set("A_KEY", x),
    "secrets.rotate": lambda client, code, x: client.secrets.rotate("A_KEY", x),
    "secrets.remove": lambda client, code, x: client.secrets.remove(x),
}
OF_A_JOB: dict[str, Given] = {
    "wait": lambda job, tmp, x: job.wait(x, raise_on_failure=False),
    "follow": lambda job, tmp, x: job.follow(x),
    "iter_ledger": lambda job, tmp, x: job.iter_ledger(from_step=x),
    **{f"logs {name}": _of_logs(name) for name in ("trainer", "tail", "since", "contains")},
    "resize": lambda job, tmp, x: job.resize(x),
    "set_budget": lambda job, tmp, x: job.set_budget(max_cost=x),
    "inject_fault": lambda job, tmp, x: job.inject_fault(x),
    "download_model": lambda job, tmp, x: job.download_model(x),
    "download_model module": lambda job, tmp, x: job.download_model(tmp / "m", module=x),
    "files": lambda job, tmp, x: job.files(x),
    "download_files": lambda job, tmp, x: job.download_files(x),
    "download_files path": lambda job, tmp, x: job.download_files(tmp, path=x),
}
ASKED = [*OF_A_CLIENT, *OF_A_JOB]


def _read(found: Any) -> None:
    if isinstance(found, Iterator):
        list(found)


async def _read_async(found: Any) -> None:
    if hasattr(found, "__aiter__"):
        async for _ in found:
            pass
    elif hasattr(found, "__await__"):
        await found


def _plainly(asked: str, transport: httpx.MockTransport, code: Path, tmp: Path, x: Any) -> None:
    with Client("http://surefoot", transport=transport) as client:
        if asked in OF_A_CLIENT:
            _read(OF_A_CLIENT[asked](client, code, x))
        else:
            _read(OF_A_JOB[asked](client.job(JOB), tmp, x))


def _with_asyncio(asked: str, transport: httpx.MockTransport, code: Path, tmp: Path, x: Any) -> None:
    async def ask() -> None:
        async with AsyncClient("http://surefoot", transport=transport) as client:
            if asked in OF_A_CLIENT:
                await _read_async(OF_A_CLIENT[asked](client, code, x))
            else:
                await _read_async(OF_A_JOB[asked](await client.job(JOB), tmp, x))

    asyncio.run(ask())


@pytest.mark.parametrize("way", [_plainly, _with_asyncio])
@pytest.mark.parametrize("asked", ASKED)
def test_only_our_own_errors_come_of_what_is_given(
    asked: str,
    way: Callable[..., None],
    transport: httpx.MockTransport,
    code: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    others = {}
    for wrong, x in WRONG.items():
        try:
            way(asked, transport, code, tmp_path, x)
        except SurefootError as error:
            if not str(error).strip():
                others[wrong] = "it says nothing"
        except TimeoutError:
            assert asked in ("wait", "follow")
        except Exception as error:  # noqa: BLE001  which ones come is what is asked here
            others[wrong] = repr(error)
    assert others == {}


@pytest.mark.parametrize(
    "option",
    [
        "train",
        "batch_size",
        "sub_tasks",
        "seed",
        "data_workers",
        "threads",
        "device",
        "checkpoint",
        "checkpoint_every",
        "restore",
        "target",
        "output_dir",
        "data",
        "config",
    ],
)
def test_nor_does_a_local_run_take_odd_ones(option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("surefoot_actors")
    monkeypatch.chdir(tmp_path)

    def train(run: surefoot.Run) -> None:
        model = torch.nn.Linear(1, 1)
        run.track(model=model)
        for step in run.steps(1):
            for (x,) in step.batches(torch.utils.data.TensorDataset(torch.ones(2, 1))):
                model(x).sum().backward()
            step.discard_gradients()

    # what is a text may be the name of a folder or a file that can be made, and any function may be one that trains
    harmless = ("no text", "a function", "a class") if option == "train" else ()
    others = {}
    for wrong, x in WRONG.items():
        if wrong in harmless or (option == "data_workers" and wrong == "a number"):
            continue
        try:
            given: dict[str, Any] = {"train": train, "batch_size": 2, "sub_tasks": 2}
            surefoot.run_local(**(given | {option: x}))
        except SurefootError:
            continue
        except Exception as error:  # noqa: BLE001  which ones come is what is asked here
            others[wrong] = repr(error)
    assert others == {}


SAID: dict[str, tuple[Callable[[Any], object], str]] = {
    "a folder": (lambda c: c.submit("train:train", batch_size=8, folder=5), "folder is of type int: give a path"),
    "a config": (lambda c: c.submit("train:train", batch_size=8, config=[1]), "config is of type list: give a dict"),
    "secrets": (
        lambda c: c.submit("train:train", batch_size=8, secrets=b"KEY"),
        "secrets is of type bytes: give a list",
    ),
    "one of them": (
        lambda c: c.submit("train:train", batch_size=8, pip=[5]),
        "what pip lists is of type int: give a text",
    ),
    "a job": (lambda c: c.job(None), "job is None: give a text, as 'last'"),
    "a number": (lambda c: c.jobs(limit="5"), "limit is of type str: give a whole number"),
    "a secret": (lambda c: c.secrets.set("A_KEY", b"secret123"), "value is of type bytes: give a text"),
    "no such option": (
        lambda c: c.submit("train:train", batch_sise=8),
        r"takes no batch_sise; did you mean batch_size\?",
    ),
    "a missing one": (lambda c: c.submit("train:train"), "batch_size is missing"),
    "no such line": (lambda c: list(c.job(JOB).logs(tial=3)), "takes no tial"),
    "no job's": (lambda c: track(JOB, "tensorboard:x"), "give what client.job"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("what", SAID)
def test_it_is_said_what_is_taken(
    what: str, transport: httpx.MockTransport, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(code)
    call, said = SAID[what]
    with Client("http://surefoot", transport=transport) as client, pytest.raises(OptionError, match=said) as raised:
        call(client)
    assert isinstance(raised.value, TypeError), "as Python's own would be"
    assert "secret123" not in str(raised.value)


@pytest.mark.parametrize("wrong", [5, b"http://x", object()])
def test_nor_has_a_client_an_odd_address(wrong: Any) -> None:
    for kind in (Client, AsyncClient):
        for given in ({"url": wrong}, {"url": "http://x", "token": wrong}):
            with pytest.raises(OptionError):
                kind(**given)
    with pytest.raises(UserError):
        Client("http://surefoot").delete(wrong)


def test_one_requirement_is_one(transport: httpx.MockTransport, code: Path) -> None:
    """A text is a sequence of letters, too."""
    with Client("http://surefoot", transport=transport) as client:
        job: Job = client.submit("train:train", folder=code, batch_size=64, pip="einops==0.8.1", secrets="A_KEY")
        assert job.spec.pip == ("einops==0.8.1",)
        assert job.spec.secrets == {"A_KEY": "A_KEY"}
