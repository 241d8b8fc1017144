"""Several trainers of one program in one process: members compute their own sub-tasks, are lost, and are replaced by joiners.

Everything that a trainer does goes on as in a real one (`run_training`, leaves, folds, the merge, `Tracked.capture` and `restore`);
only the processes and the wires are missing. Whoever joins has built its objects anew, and its state is scrambled before the run's is
put over it. A story takes milliseconds, so that a joiner can be tried at every step of every program.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from surefoot.contract import Run
from surefoot.errors import DriftError
from surefoot.events import LedgerRow
from surefoot.local import LocalResult
from surefoot_actors.engine.contract.run import RunOptions, run_training
from surefoot_actors.engine.exchange.agreement import UnlikeSubTaskError
from surefoot_actors.engine.exchange.alone import merge_alone
from surefoot_actors.engine.exchange.contribution import NO_DIGEST, Contribution
from surefoot_actors.engine.exchange.transfer import _image_digest
from surefoot_actors.engine.ports import StateOwner, TrainerExit
from surefoot_actors.engine.types import Merged, Node, Position, Range, StateImage
from surefoot_actors.engine.vector.folding import NodeStore
from surefoot_actors.local_run.settings import process_settings
from surefoot_actors.protocol import messages
from surefoot_actors.protocol.cross_checks import cross_checks, is_due
from surefoot_actors.user_code.lines import user_line

from .fiber import Ended, Fiber

__all__ = ["Loss", "Parted", "Story", "act"]

Train = Callable[[Run], None]


class Parted(AssertionError):
    """Members that should be alike are not: what differs, and where."""


class Killed(BaseException):
    """Raised in a trainer that is lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Member number `member` of those there are is lost in a step: before its turn number `turn` of the first round; None: at its end."""

    step: int
    member: int
    turn: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """Who is there when. Printable, so that a failure can be told again."""

    trainers: int = 1
    losses: tuple[Loss, ...] = ()
    # at the start of these steps one more trainer joins
    joins: tuple[int, ...] = ()
    # every member takes its sub-tasks last to first
    backwards: bool = False


class Member:
    """One trainer. Implements `ports.Coordinator`."""

    generation = 1
    trainers = 1

    def __init__(self, train: Train, options: RunOptions) -> None:
        self._fiber = Fiber(lambda: run_training(train, options, self))
        self.store = NodeStore(options.sub_tasks)
        self.todo: list[int] = []
        self.owner: StateOwner | None = None
        self.position = Position(0, 0, 0)
        # None: not known yet
        self.num_steps: int | None = None
        self.row: LedgerRow | None = None
        self.result: Merged | None = None
        # whether a round has checked it; whether the open one can; whether what it computes is its own; what came of it, by sub-task
        self.checked, self.checks, self.is_own = False, False, True
        self.digests: dict[int, bytes] = {}
        self.line = ""

    def go(self, answer: Any = None) -> str:
        """Go on until the next question, and return it: "admit", "turn", "boundary", "finish" or "end"."""
        request = self._fiber.resume(answer)
        if isinstance(request, Ended):
            if request.error is not None and not isinstance(request.error, (Killed, TrainerExit)):
                raise request.error
            return "end"
        return str(request)

    def end(self) -> None:
        """Let it end as a killed process does, as far as that is possible here."""
        if not self._fiber.ended and self._fiber._began:
            self._fiber.resume(Killed())

    def admit(self, state: StateOwner, num_steps: int | None) -> Position:
        self.owner, self.num_steps = state, num_steps
        self.position = self._fiber.ask("admit")
        return self.position

    def set_num_steps(self, num_steps: int) -> None:
        self.num_steps = num_steps

    def once(self, key: str, prepare: Callable[[], object]) -> None:
        prepare()

    def node_once(self, key: str, prepare: Callable[[], object]) -> None:
        prepare()

    @property
    def is_compared(self) -> bool:
        return not self.is_own or (self.checks and (not self.checked or self.is_due))

    @property
    def is_due(self) -> bool:
        return is_due(self.position.step, self.num_steps)

    def show(self, sub_task: int, digest: bytes) -> None:
        self.digests[sub_task] = digest

    def open_round(self, position: Position, *, checks: bool = False) -> None:
        self.position, self.checks, self.line = position, checks, user_line()
        self.digests.clear()

    def next_sub_task(self) -> int | None:
        answer: int | None = self._fiber.ask("turn")
        return answer

    def put_leaf(self, leaf: Node) -> None:
        self.store.put(leaf)

    def merged(self) -> Merged:
        assert self.result is not None
        return self.result

    def end_step(self, row: LedgerRow) -> None:
        self.row = row
        self._fiber.ask("boundary")

    def finish(self, num_steps: int) -> None:
        self._fiber.ask("finish")


@dataclass
class Cluster:
    """All members of one run, and what they made."""

    train: Train
    options: RunOptions
    story: Story
    members: list[Member] = field(default_factory=list)
    rows: list[LedgerRow] = field(default_factory=list)
    digest: str = ""
    # losses that have not happened yet
    coming: list[Loss] = field(default_factory=list)

    def run(self) -> None:
        """Take the run to its end. Raises what a member raises, Parted where members are unlike."""
        self.coming = list(self.story.losses)
        for _ in range(self.story.trainers):
            self._join(Position(0, 0, 0))
        waits = [member.go(member.position) for member in self.members]
        while waits[0] != "finish":
            if len(set(waits)) != 1:
                raise Parted(f"members go on differently after step {len(self.rows) - 1}: {waits}")
            waits = self._round() if waits[0] == "turn" else self._boundary()
        if len(set(waits)) != 1:
            raise Parted(f"members end differently: {waits}")
        self.digest = self._same("final state", lambda m: _owner(m).digest()).hex()
        first, *others = self.members
        first.go()
        for member in others:
            member.go(TrainerExit())

    # ---- a round

    def _round(self) -> list[str]:
        self._divide(range(self.options.sub_tasks), self.members)
        turn = 0
        while any(member.todo for member in self.members):
            for member in tuple(self.members):
                self._lose_at(member, turn)
            for member in self.members:
                if member.todo:
                    waits = member.go(member.todo.pop(-1 if self.story.backwards else 0))
                    if waits != "turn":
                        raise Parted(f"a member left its inner loop in step {member.position.step}: {waits}")
            turn += 1
        if self.members[0].checks:
            self._cross_check()
        self._merge()
        return [member.go(None) for member in self.members]

    def _cross_check(self) -> None:
        """Whoever no round has checked yet is compared, and now and then everybody, as in a real run."""
        if len(lengths := {m.num_steps for m in self.members}) > 1:
            raise Parted(f"in step {self.members[0].position.step}, members know other lengths of the run: {lengths}")
        position, checked = self.members[0].position, [m.checked for m in self.members]
        generation = messages.Generation(
            number=1,
            nonce="",
            start=position.round,
            members=tuple(messages.Member(trainer="", own=m.store.held, role="settled") for m in self.members),
            store=("", 0),
        )
        unchecked = [k for k, is_checked in enumerate(checked) if not is_checked or self.members[0].is_due]
        for subject, witness, sub_task in cross_checks(generation, position.round, self.options.sub_tasks, unchecked):
            other = self.members[witness]
            other.is_own = False
            waits = other.go(sub_task)
            other.is_own = True
            if waits != "turn":
                raise Parted(f"a witness left its inner loop in step {position.step}: {waits}")
            shown = {self.members[subject].digests[sub_task], other.digests[sub_task]}
            if len(shown) > 1 and NO_DIGEST not in shown:
                unlike = UnlikeSubTaskError(sub_task, position.step, subject, witness, len(self.members))
                raise DriftError(f"{unlike}; the inner loop at {other.line}")
        for member in self.members:
            member.checked = member.checked or bool(member.store.held)

    def _divide(self, sub_tasks: Any, among: list[Member]) -> None:
        numbers, n = list(sub_tasks), len(among)
        for k, member in enumerate(among):
            member.todo += numbers[len(numbers) * k // n : len(numbers) * (k + 1) // n]

    def _lose_at(self, member: Member, turn: int | None) -> None:
        place, phase = self.members.index(member), member.position.phase
        for loss in tuple(self.coming):
            here = (loss.step, loss.member, loss.turn) == (member.position.step, place, turn)
            if here and (turn is None or not phase) and len(self.members) > 1:
                self.coming.remove(loss)
                left = [v for v in range(self.options.sub_tasks) if member.store.held >> v & 1] + member.todo
                self.members.remove(member)
                member.end()
                if turn is not None:
                    self._divide(sorted(left), self.members)
                return

    def _merge(self) -> None:
        nodes: dict[Range, Node] = {}
        for member in self.members:
            nodes.update(member.store.nodes())
        position = self.members[0].position
        result = merge_alone(
            Contribution(
                round=position.round,
                step=position.step,
                num_sub_tasks=self.options.sub_tasks,
                covers=(tuple(sorted(nodes)),),
                nodes=nodes,
            )
        )
        for member in self.members:
            member.result = result.merged
            member.store.clear()

    # ---- between steps

    def _boundary(self) -> list[str]:
        self._same("ledger", lambda m: m.row.result.canonical() if m.row else b"")
        row = self.members[0].row
        assert row is not None
        step = row.result.step
        self._same(f"state after step {step}", lambda m: _owner(m).digest())
        self.rows.append(row)
        reached = Position(self.members[0].position.round + 1, step + 1, 0)
        for member in self.members:
            member.position = Position(reached.round, step, 0)
        last = self.members[0].num_steps == step + 1
        # as in a job, there are never more trainers than sub-tasks
        free = self.options.sub_tasks - len(self.members)
        due = [at for at in self.story.joins if at == step + 1 and not last]
        joiners = [self._join(reached) for _ in due[:free]]
        for member in tuple(self.members):
            self._lose_at(member, None)
        return [member.go(reached if member in joiners else None) for member in self.members]

    def _join(self, position: Position) -> Member:
        """Start one more member, up to its admission, and give it the state."""
        member = Member(self.train, self.options)
        member.checked = not self.members
        self.members.append(member)
        waits = member.go()
        if waits != "admit":
            raise Parted(f"a trainer ended before its first step: {waits}")
        member.position = position
        if len(self.members) > 1:
            self._give_state(member, position)
        return member

    def _give_state(self, joiner: Member, position: Position) -> None:
        # the founders have what the first of them built; who joins later is given it by all
        sources = self.members[:-1] if position.round else self.members[:1]
        step, images = position.step, [_owner(m).capture() for m in sources]
        digests = {_image_digest(image) for image in images}
        if len(digests) != 1:
            raise Parted(f"at step {step}, members give different images of the state to a joiner: {_unlike(images)}")
        copy = StateImage(skeleton=images[0].skeleton, tensors=[t.clone() for t in images[0].tensors])
        owner = _owner(joiner)
        scramble(owner)
        owner.restore(copy)
        self._same(f"state that joined at step {step}", lambda m: _owner(m).digest())
        ours, theirs = layouts(_owner(sources[0])), layouts(owner)
        if ours != theirs:
            unlike = [name for name in ours if ours[name] != theirs.get(name)]
            raise Parted(f"at step {step}, a joiner's tensors lie otherwise in memory than its source's: {unlike}")

    def _same(self, what: str, of: Callable[[Member], bytes]) -> bytes:
        values = [of(member) for member in self.members]
        if len(set(values)) != 1:
            tensors = [_owner(m).tensor_digests() for m in self.members]
            names = sorted({n for d in tensors for n in d if any(d.get(n) != o.get(n) for o in tensors)})
            raise Parted(f"members are unlike: {what}: {names}")
        return values[0]


def act(
    train: Train,
    story: Story,
    *,
    batch_size: int,
    sub_tasks: int,
    seed: int = 0,
    data_workers: int = 0,
    config: dict[str, Any] | None = None,
) -> LocalResult:
    """Run a program as the story says; return its ledger and the digest of its end."""
    options = RunOptions(
        config=dict(config or {}), seed=seed, batch_size=batch_size, sub_tasks=sub_tasks, data_workers=data_workers
    )
    cluster = Cluster(train, options, story)
    with process_settings(1):
        try:
            cluster.run()
        finally:
            for member in cluster.members:
                member.end()
    return LocalResult(rows=tuple(cluster.rows), digest=cluster.digest)


@torch.no_grad()
def scramble(owner: StateOwner) -> None:
    """Put other values into all numbers of a trainer's state: what is not put back then shows."""
    generator = torch.Generator().manual_seed(99)
    for entry in owner.survey().entries:
        tensor = entry.tensor.detach()
        if torch.nn.parameter.is_lazy(entry.tensor) or not tensor.is_floating_point() or tensor.is_inference():
            continue
        if 0 in tensor.stride() and tensor.numel() > 1:
            continue
        tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=torch.float32))


def layouts(owner: StateOwner) -> dict[str, tuple[int, ...]]:
    """Return every tensor's strides, by name; of dimensions of size 1 they say nothing."""
    found = {}
    for entry in owner.survey().entries:
        t = entry.tensor
        if not torch.nn.parameter.is_lazy(t):
            found[entry.name] = tuple(s for s, n in zip(t.stride(), t.shape, strict=True) if n > 1)
    return found


def _owner(member: Member) -> StateOwner:
    assert member.owner is not None
    return member.owner


def _unlike(images: list[StateImage]) -> str:
    if len({image.skeleton for image in images}) > 1:
        return "their pickled plain values"
    return "their tensors"
