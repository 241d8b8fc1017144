"""How a process computes stays as it was when training began; what is kept from sub-task to sub-task does not show."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import surefoot
from surefoot.contract import Run
from surefoot.errors import ContractError
from surefoot.events import Circumstances, LedgerRow
from surefoot_actors.determinism.fingerprint import make_deterministic
from surefoot_actors.engine.contract.settings import SettingsWatch

from .kit import Net, points, run_local
from .test_gradients import keeps_the_promise

DATA = points()
FILE = "test_settings.py:"


def flush(on: bool) -> None:
    torch.set_flush_denormal(on)


CHANGES: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "torch.get_num_threads() was changed from 1 to 2": (
        lambda: torch.set_num_threads(2),
        lambda: torch.set_num_threads(1),
    ),
    "torch.get_deterministic_debug_mode() was changed from 2 to 0": (
        lambda: torch.use_deterministic_algorithms(False),
        lambda: torch.use_deterministic_algorithms(True),
    ),
    "torch.get_deterministic_debug_mode() was changed from 2 to 1": (
        lambda: torch.set_deterministic_debug_mode("warn"),
        lambda: torch.set_deterministic_debug_mode("error"),
    ),
    "torch.get_default_dtype() was changed from torch.float32 to torch.float64": (
        lambda: torch.set_default_dtype(torch.float64),
        lambda: torch.set_default_dtype(torch.float32),
    ),
    "torch.get_float32_matmul_precision() was changed from highest to high": (
        lambda: torch.set_float32_matmul_precision("high"),
        lambda: torch.set_float32_matmul_precision("highest"),
    ),
    "torch.backends.cudnn.benchmark was changed from False to True": (
        lambda: setattr(torch.backends.cudnn, "benchmark", True),
        lambda: setattr(torch.backends.cudnn, "benchmark", False),
    ),
    "torch.backends.mkldnn.enabled was changed from True to False": (
        lambda: torch._C._set_mkldnn_enabled(False),
        lambda: torch._C._set_mkldnn_enabled(True),
    ),
    "flush_denormal was changed from False to True": (lambda: flush(True), lambda: flush(False)),
}


def train_with(change: Callable[[], Any], where: str) -> Callable[[Run], None]:
    def train(run: Run) -> None:
        model = nn.Linear(16, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run.track(model=model, optimizer=optimizer)
        if where == "before":
            change()
        for step in run.steps(3):
            for x, y in step.batches(DATA):
                if where == "inside" and step.number == 1:
                    change()
                F.cross_entropy(model(x), y).backward()
            optimizer.step()
            if where == "after" and step.number == 0:
                change()

    return train


@pytest.mark.parametrize("words", CHANGES)
@pytest.mark.parametrize("where", ["inside", "after"])
def test_settings_changed_while_training(words: str, where: str) -> None:
    change, undo = CHANGES[words]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(ContractError) as caught:
                run_local(train_with(change, where), batch_size=8, sub_tasks=4)
    finally:
        undo()
    assert words in str(caught.value)
    assert f"inner loop at {FILE}" in str(caught.value)
    assert "set it once, before run.steps()" in str(caught.value) or "run.nondeterministic" in str(caught.value)


def test_the_line_of_the_call_is_named() -> None:
    try:
        with pytest.raises(ContractError, match=rf"changed from 1 to 2 at {FILE}\d+, in the inner loop at {FILE}"):
            run_local(train_with(lambda: torch.set_num_threads(2), "after"), batch_size=8, sub_tasks=4)
    finally:
        torch.set_num_threads(1)


def test_settings_before_the_loop_are_the_codes_own_but_for_determinism() -> None:
    run_local(train_with(lambda: torch.set_num_threads(2), "before"), batch_size=8, sub_tasks=4)
    try:
        run_local(train_with(lambda: torch.set_float32_matmul_precision("high"), "before"), batch_size=8, sub_tasks=4)
    finally:
        torch.set_float32_matmul_precision("highest")
    with pytest.raises(ContractError, match=r"from 2 to 0, before run.steps\(\) at test_settings.py:\d+"):
        run_local(train_with(lambda: torch.use_deterministic_algorithms(False), "before"), batch_size=8, sub_tasks=4)


def test_seeding_inside_a_sub_task_is_the_users_business() -> None:
    def train(run: Run) -> None:
        model = Net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run.track(model=model, optimizer=optimizer)
        for step in run.steps(6):
            for x, y in step.batches(DATA):
                with torch.random.fork_rng():
                    torch.manual_seed(0)
                    x = x + torch.randn_like(x)
                torch.manual_seed(step.number)
                F.cross_entropy(model(x), y).backward()
            torch.manual_seed(7)
            optimizer.step()

    keeps_the_promise(train)


# ---- operations without a deterministic form


class Unpool(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled, where = F.max_pool2d(self.conv(x.view(-1, 1, 4, 4)), 2, return_indices=True)
        return F.max_unpool2d(pooled, where, 2).mean((1, 2, 3))


def unpooling(run: Run) -> None:
    model = Unpool()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(3):
        for x, _ in step.batches(DATA):
            if run.config.get("allow") and step.number != 1:
                with run.nondeterministic("max_unpool2d"):
                    model(x).sum().backward()
            elif not run.config.get("allow"):
                model(x).sum().backward()
            else:
                (model.conv.weight.sum() * x.sum()).backward()
        assert torch.get_deterministic_debug_mode() == 2
        optimizer.step()


def test_an_operation_without_a_deterministic_form() -> None:
    with pytest.raises(ContractError) as caught:
        run_local(unpooling, batch_size=8, sub_tasks=4)
    assert "max_unpool" in str(caught.value)
    assert f"at {FILE}" in str(caught.value)
    assert "with run.nondeterministic(" in str(caught.value)


def test_one_operation_is_allowed_on_purpose_and_noted() -> None:
    result = run_local(unpooling, batch_size=8, sub_tasks=4, config={"allow": True})
    noted = [row.circumstances.nondeterministic for row in result.rows]
    assert noted == [("max_unpool2d",), (), ("max_unpool2d",)]


def test_rows_without_such_operations_are_as_older_readers_know_them() -> None:
    plain = Circumstances(generation=1, trainers=1, seconds=0.5)
    assert "nondeterministic" not in plain.model_dump_json()
    row = run_local(unpooling, batch_size=8, sub_tasks=4, config={"allow": True}).rows[0]
    assert LedgerRow.model_validate_json(row.model_dump_json()) == row


def test_the_loop_may_stand_inside_the_block() -> None:
    def train(run: Run) -> None:
        model = nn.Linear(16, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run.track(model=model, optimizer=optimizer)
        with run.nondeterministic("everything"):
            for step in run.steps(2):
                for x, y in step.batches(DATA):
                    F.cross_entropy(model(x), y).backward()
                optimizer.step()

    rows = run_local(train, batch_size=8, sub_tasks=4).rows
    assert [row.circumstances.nondeterministic for row in rows] == [("everything",)] * 2


# ---- what is kept from sub-task to sub-task


def test_autocast_around_the_whole_loop(tmp_path: Any) -> None:
    def train(run: Run) -> None:
        model = Net()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        run.track(model=model, optimizer=optimizer)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            for step in run.steps(6):
                for x, y in step.batches(DATA):
                    loss = F.cross_entropy(model(x), y)
                    loss.backward()
                    step.log(loss=loss)
                optimizer.step()
                for x, y in step.evaluate(DATA):
                    step.log(eval=F.cross_entropy(model(x), y))

    keeps_the_promise(train, tmp_path)


def test_autocast_around_every_step_and_loops_of_it(tmp_path: Any) -> None:
    """Casts that the first loop made do not outlive the optimizer's step."""

    def train(run: Run) -> None:
        model = Net()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-1)
        run.track(model=model, optimizer=optimizer)
        for step in run.steps(6):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                for _ in range(2):
                    for x, y in step.batches(DATA):
                        F.cross_entropy(model(x), y).backward()
                    optimizer.step()

    keeps_the_promise(train, tmp_path)


def test_cached_parametrizations_around_the_loop(tmp_path: Any) -> None:
    def train(run: Run) -> None:
        model = nn.Sequential(
            parametrizations.weight_norm(nn.Linear(16, 8)),
            parametrizations.spectral_norm(nn.Linear(8, 8)),
            parametrizations.orthogonal(nn.Linear(8, 2)),
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run.track(model=model, optimizer=optimizer)
        with parametrize.cached():
            for step in run.steps(6):
                for x, y in step.batches(DATA):
                    F.cross_entropy(model(x), y).backward()
                optimizer.step()

    keeps_the_promise(train, tmp_path)


# ---- inference mode


def test_inference_mode_around_the_loops() -> None:
    def around_steps(run: Run) -> None:
        model = nn.Linear(16, 2)
        run.track(model=model)
        with torch.inference_mode():
            for _ in run.steps(1):
                pass

    def around_batches(run: Run) -> None:
        model = nn.Linear(16, 2)
        run.track(model=model)
        for step in run.steps(1):
            with torch.inference_mode():
                for _ in step.batches(DATA):
                    pass

    for train, where in ((around_steps, r"run\.steps\(\) at"), (around_batches, "the inner loop at")):
        with pytest.raises(ContractError, match=rf"{where} {FILE}\d+ is inside torch.inference_mode\(\)"):
            run_local(train, batch_size=8, sub_tasks=4)


def test_evaluation_in_inference_mode(tmp_path: Any) -> None:
    def train(run: Run) -> None:
        model = Net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run.track(model=model, optimizer=optimizer)
        for step in run.steps(4):
            with torch.inference_mode():
                for x, y in step.evaluate(DATA):
                    step.log(before=F.cross_entropy(model(x), y))
            for x, y in step.batches(DATA):
                F.cross_entropy(model(x), y).backward()
            optimizer.step()

    keeps_the_promise(train, tmp_path, num_steps=4)


def test_parameters_made_in_inference_mode() -> None:
    def train(run: Run) -> None:
        with torch.inference_mode():
            model = nn.Linear(16, 2)
        run.track(model=model)
        for step in run.steps(1):
            for _ in step.batches(DATA):
                pass

    with pytest.raises(ContractError, match=r"model\.weight .*inference_mode"):
        run_local(train, batch_size=8, sub_tasks=4)


def test_settings_cost_little_and_are_equal_to_themselves() -> None:
    make_deterministic(torch.get_num_threads())
    try:
        watch = SettingsWatch()
        watch.check("here")
        with watch.nondeterministic("a"), watch.nondeterministic("b"):
            assert watch.allowed == ["a", "b"]
            assert torch.get_deterministic_debug_mode() == 1
            watch.check("here")
        assert torch.get_deterministic_debug_mode() == 2
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.process
def test_the_config_is_a_namespace_too_and_data_may_hold_it() -> None:
    """A dataset that keeps the config goes to data workers, and what the loop changes of it goes to joiners, as of any mapping."""

    class Held(torch.utils.data.Dataset[torch.Tensor]):
        def __init__(self, config: Any) -> None:
            self.config = config

        def __len__(self) -> int:
            return 16

        def __getitem__(self, index: int) -> torch.Tensor:
            return torch.full((2,), self.config.scale * index)

    def train(run: Run) -> None:
        args = run.config
        assert isinstance(args, Mapping)
        assert (args.lr, args["lr"], args.deep.width) == (0.1, 0.1, 2)
        model = nn.Linear(args.deep.width, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=args.lr)
        run.track(model=model, optimizer=optimizer)
        data = Held(args)
        for step in run.steps(3):
            args.seen = step.number
            for x in step.batches(data):
                model(x).mean().backward()
            optimizer.step()

    config = {"lr": 0.1, "scale": 0.01, "deep": {"width": 2}}
    digests = {
        surefoot.run_local(train, batch_size=8, config=config, data_workers=workers).digest for workers in (0, 2)
    }
    assert len(digests) == 1


def test_attention_kernels_may_be_chosen_for_a_round() -> None:
    kernels = torch.nn.attention.SDPBackend

    def train(run: Run) -> None:
        model = nn.Linear(16, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run.track(model=model, optimizer=optimizer)
        for step in run.steps(3):
            with torch.nn.attention.sdpa_kernel(kernels.MATH if step.number % 2 else kernels.FLASH_ATTENTION):
                for x, y in step.batches(DATA):
                    F.cross_entropy(model(x), y).backward()
            optimizer.step()

    run_local(train, batch_size=8, sub_tasks=4)


def test_a_dtype_of_autocast_may_be_chosen_for_a_round_and_around_the_loop_but_not_for_good() -> None:
    def train(run: Run) -> None:
        model = nn.Linear(16, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run.track(model=model, optimizer=optimizer)
        with torch.autocast("cpu", dtype=torch.float16, enabled=False):
            for step in run.steps(3):
                if run.config["for_good"] and step.number == 1:
                    torch.set_autocast_dtype("cpu", torch.bfloat16)
                with torch.autocast("cpu", dtype=torch.float16 if step.number % 2 else torch.bfloat16):
                    for x, y in step.batches(DATA):
                        F.cross_entropy(model(x).float(), y).backward()
                optimizer.step()

    run_local(train, batch_size=8, sub_tasks=4, config={"for_good": False})
    with pytest.raises(
        ContractError, match=r'get_autocast_dtype\("cpu"\) was changed from torch.float16 to .* in step 1'
    ):
        run_local(train, batch_size=8, sub_tasks=4, config={"for_good": True})
