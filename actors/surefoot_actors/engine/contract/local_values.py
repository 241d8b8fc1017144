"""Finds decisions by local values in the user's code: what an inner loop has summed up or counted on this trainer alone.

`running_loss += loss.item()` in the inner loop and `schedule.step(running_loss)` after it give every number of trainers other bits, and
on trainers with equally many sub-tasks nothing drifts apart that could be compared. So the source is read once, as the loop begins. What
is told is certain: a name that an inner loop writes, not written since by anything merged, that decides a learning rate, is given to a
schedule's step(), decides whether training ends or an optimizer steps, or goes into a later loss. What cannot be read is let pass.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from types import CellType, CodeType, FrameType
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from surefoot.errors import ContractError
from surefoot_actors.engine.contract.assignments import (
    ADDS,
    assigned,
    counted,
    expression_of,
    goes_into,
    has_star,
    paths_of,
    targets_of,
    written,
)
from surefoot_actors.engine.contract.called import Called, called, is_part, moved, object_of, shared, text_key, tree_of
from surefoot_actors.engine.contract.called import path_of as _path
from surefoot_actors.engine.contract.held import Held, alternatives, calls_in, cells_of
from surefoot_actors.user_code import places
from surefoot_actors.user_code.frames import vars_of
from surefoot_actors.user_code.lines import is_library

__all__ = ["check_local_values"]

# Methods after which there is nothing left of that.
_EMPTIES = frozenset(("reset", "clear"))
# Through so many calls of the user's functions, one in another, and so many in all.
_DEEP, _MANY = 3, 200
# Of an optimizer's group.
_SETTINGS = frozenset(("lr", "weight_decay", "momentum", "betas", "eps"))
# What trains, or sets how; objects of the user's own have it in an attribute.
_TRAINING = (torch.optim.Optimizer, LRScheduler, torch.amp.GradScaler, nn.Module)
_LOOPS = frozenset(("batches", "evaluate"))
# Attributes of a step: the same on all trainers.
_MERGED = frozenset(("merged", "gathered", "number", "epoch"))


def check_local_values(frame: FrameType) -> None:
    """Raise ContractError where the function that loops over steps decides by what an inner loop leaves behind."""
    if is_library(frame.f_code.co_filename):
        return
    for loop in _step_loops(tree_of(frame.f_code)):
        reader = _Reader(frame.f_code, {**frame.f_globals, **frame.f_locals}, deep=_DEEP, left=[_MANY], held=Held())
        reader.cells = cells_of(frame.f_code, frame.f_locals)
        # twice: what the end of a step leaves is there at the next one's beginning
        for _ in range(2):
            reader.block(loop.body)
        if reader.found is not None:
            place, name, what = reader.found
            raise ContractError(
                f"{place}: {what} by {name}, which an inner loop has made on this trainer alone: its value depends on how many "
                f"sub-tasks the trainer has computed, so the result would depend on how many trainers there are. Log what counts in "
                f"the inner loop, step.log(loss=loss), and decide by step.merged['loss'] (or step.gathered), which are the same everywhere"
            )


def _step_loops(tree: ast.AST | None) -> Iterator[ast.For]:
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, ast.For) and _calls(node.iter, frozenset(("steps",))):
            yield node


def _calls(node: ast.AST, methods: frozenset[str]) -> bool:
    return any(
        isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute) and n.func.attr in methods for n in ast.walk(node)
    )


def _is_inner(node: ast.stmt) -> bool:
    return isinstance(node, ast.For) and _calls(node.iter, _LOOPS)


class _Reader:
    """Reads statements in order, and keeps which names hold local values."""

    def __init__(self, code: CodeType, names: Mapping[str, Any], *, deep: int, left: list[int], held: Held) -> None:
        """`names`: the objects that names stand for, as far as they are known. `deep`, `left`: through how many calls to follow.

        `held`: what is local in objects; all that is read has it in common.
        """
        self._held = held
        #: variables that functions have in common
        self.cells: Mapping[str, CellType] = {}
        self._path, self._names, self._deep, self._left = places.shown(code.co_filename), names, deep, left
        # by call of the statement under way: what of its result is local
        self._results: dict[int, set[int]] = {}
        # whether it is a function that is called in the loop, whose end is not the end of training
        self._is_called = False
        self.local: set[str] = set()
        # of those names, what statements outside of inner loops have made of local values
        self._carried: set[str] = set()
        #: file and line, name, what it decides
        self.found: tuple[str, str, str] | None = None
        # the local name that decides whether the statements being read are run
        self._under: str | None = None
        # in a loop that is no inner one: the local name by which it is left, "" where there is none; None: in no such loop
        self._left_by: str | None = None
        #: what return statements hand out that is local: places in a tuple, -1 for the value as a whole
        self.returns: set[int] = set()

    def block(self, statements: Iterable[ast.stmt]) -> None:
        for statement in statements:
            self.read(statement)

    def read(self, node: ast.stmt) -> None:
        self._results.clear()
        if _is_inner(node):
            self._inner(node)
            own = written(node)
            self.local |= own
            self._hold(own, self._names, self.cells)
            self._called_inside(node, self._names, self._deep)
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            self._assign(node)
        elif isinstance(node, ast.If):
            self._branch(node)
        elif isinstance(node, ast.For | ast.While | ast.With | ast.Try):
            self._nested(node)
        elif isinstance(node, ast.Break | ast.Return):
            self._end(node)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.NamedExpr):
            self._assign(ast.Assign([node.value.target], node.value.value, lineno=node.lineno))
        elif isinstance(node, ast.Expr):
            self._call(node.value)

    def _assign(self, node: ast.Assign | ast.AnnAssign | ast.AugAssign) -> None:
        if node.value is None:
            return
        self._call(node.value)
        for target, name in self._given(node):
            if isinstance(target, ast.Subscript) and text_key(target) in _SETTINGS:
                if name or self._under:
                    self._tell(node, name or self._under or "", f"{text_key(target)} is set")
                continue
            for path in paths_of(target):
                if name or self._under:
                    self.local.add(path)
                    self._carried.update({path} if name else ())
                elif not isinstance(node, ast.AugAssign):
                    self._forget(path)
                    self._carried.discard(path)
            for part in targets_of(target):
                if name or self._under:
                    self._held.add(part, self._names, self.cells, carried=bool(name))
                elif not isinstance(node, ast.AugAssign):
                    self._held.discard(part, self._names, self.cells)
                if isinstance(part, ast.Name):  # it stands for another object from now on
                    self._names = {k: v for k, v in self._names.items() if k != part.id}

    def _forget(self, path: str) -> None:
        """Something has another value, and so has all that is in it."""
        self.local -= {known for known in self.local if known == path or is_part(known, path)}

    def _given(self, node: ast.Assign | ast.AnnAssign | ast.AugAssign) -> Iterator[tuple[ast.expr, str | None]]:
        """Yield what is assigned to, and the local value in what it is given: part by part, where tuples are."""
        assert node.value is not None
        handed = self._follow(node.value) if isinstance(node.value, ast.Call) else set()
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            parts = target.elts if isinstance(target, ast.Tuple) and not has_star(target) else None
            if parts and isinstance(node.value, ast.Tuple) and len(node.value.elts) == len(parts):
                yield from zip(parts, map(self._name_in, node.value.elts), strict=True)
            elif parts and handed and -1 not in handed and isinstance(node.value, ast.Call):
                result, given = _result_of(node.value.func), self._name_in_arguments(node.value)
                yield from ((part, result if i in handed else given) for i, part in enumerate(parts))
            else:
                yield target, self._name_in(node.value)

    def _inner(self, node: ast.stmt) -> None:
        """An inner loop's backward pass may go through what was made of local values before it."""
        own = assigned(node)
        carried = sorted(self._carried - own)
        for call in ast.walk(node) if carried or self._held.carries else ():
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "backward":
                paths = goes_into(call, node)
                name = next((path for path in carried if path in paths), None)
                name = name or next((p for p in sorted(paths - own) if self._is_carried(p)), None)
                if name:
                    self._tell(call, name, f"the loss of {ast.unparse(call)} is decided")

    def _is_carried(self, path: str) -> bool:
        return self._held.holds(expression_of(path), self._names, self.cells, carried=True)

    def _hold(self, paths: Iterable[str], names: Mapping[str, Any], cells: Mapping[str, CellType]) -> None:
        for path in paths:
            self._held.add(expression_of(path), names, cells)

    def _called_inside(self, region: ast.AST, names: Mapping[str, Any], deep: int) -> None:
        """What functions write that an inner loop calls depends on how many batches there are too."""
        for found in calls_in(region, names) if deep else ():
            if not self._left[0]:
                return
            self._left[0] -= 1
            body = ast.Module(found.body, [])
            inside = {**found.values, **{p: thing for p, (_, thing) in found.given.items() if thing is not None}}
            self._hold(counted(body), inside, found.cells)
            self._called_inside(body, inside, deep - 1)

    def _branch(self, node: ast.If) -> None:
        before, self._under = self._under, self._under or self._name_in(node.test)
        known, held = set(self.local), self._held.copy()
        self.block(node.body)
        after, self.local = self.local, known
        held_after = self._held.copy()
        self._held.take(held)
        self.block(node.orelse)
        self.local |= after
        self._held.add_all(held_after)
        self._under = before

    def _nested(self, node: ast.For | ast.While | ast.With | ast.Try) -> None:
        if isinstance(node, ast.For):
            name = self._name_in(node.iter)
            self._named(node.target, name)
        for item in getattr(node, "items", ()):
            if item.optional_vars is not None:
                self._named(item.optional_vars, self._name_in(item.context_expr))
        if isinstance(node, ast.For | ast.While):
            self._looped(node)
        else:
            self.block(node.body)
        for handler in getattr(node, "handlers", ()):
            self.local.discard(handler.name)
            self.block(handler.body)
        self.block(getattr(node, "orelse", ()))
        self.block(getattr(node, "finalbody", ()))

    def _named(self, target: ast.expr, name: str | None) -> None:
        for path in paths_of(target):
            (self.local.add if name else self.local.discard)(path)

    def _looped(self, node: ast.For | ast.While) -> None:
        """A loop that is no inner one: leaving it by a local value ends nothing, but how often it has turned is local then."""
        before, self._left_by = self._left_by, ""
        known = alternatives(node, self._names) if isinstance(node, ast.For) else None
        for thing in (known[1] or [None]) if known else (None,):  # what is empty now may be filled later
            names, self._names = self._names, {**self._names, known[0]: thing} if known else self._names
            self._results.clear()
            self.block(node.body)
            self._names = names
        if self._left_by:
            self.local |= assigned(node, ast.AugAssign)
        self._left_by = before

    def _end(self, node: ast.Break | ast.Return) -> None:
        if isinstance(node, ast.Return) and node.value is not None:
            parts = node.value.elts if isinstance(node.value, ast.Tuple) else ()
            places = {i for i, part in enumerate(parts) if self._name_in(part)}
            self.returns |= places if parts else {-1} if self._name_in(node.value) else set()
        if isinstance(node, ast.Break) and self._left_by is not None:
            self._left_by = self._left_by or self._under or ""
        elif self._under and not self._is_called:
            self._tell(node, self._under, "training ends")

    def _call(self, node: ast.expr) -> None:
        if not isinstance(node, ast.Call):
            return
        self._follow(node)
        if not isinstance(node.func, ast.Attribute):
            return
        method = node.func.attr
        name = self._name_in_arguments(node)
        if method == "step" and (name or self._under) and not self._may_train(node.func.value):
            self.local.update(paths_of(node.func.value))  # a timer, say: what it says from now on is local
        elif method == "step" and (name or self._under):
            self._tell(node, name or self._under or "", f"{ast.unparse(node.func)}() is decided")
        elif method == "stop" and self._under:
            self._tell(node, self._under, "training ends")
        elif method in ADDS and name:
            self.local.update(paths_of(node.func.value))
        elif method in _EMPTIES:
            for path in paths_of(node.func.value):
                self._forget(path)
            self._held.discard(node.func.value, self._names, self.cells)

    def _may_train(self, node: ast.expr) -> bool:
        """Whether the step() of what an expression stands for may have a part in training: it does where nothing is known of it."""
        found = object_of(node, self._names)
        return found is None or any(isinstance(v, _TRAINING) for v in (found, *vars_of(found).values()))

    def _name_in_arguments(self, node: ast.Call) -> str | None:
        return next(filter(None, map(self._name_in, (*node.args, *(k.value for k in node.keywords)))), None)

    def _tell(self, node: ast.AST, name: str, what: str) -> None:
        self.found = self.found or (f"{self._path}:{getattr(node, 'lineno', 0)}", name, what)

    def _name_in(self, node: ast.expr) -> str | None:
        """Return the name of a local value that an expression uses, if there is one; what is merged is none."""
        if isinstance(node, ast.Attribute) and node.attr in _MERGED:
            return None
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            if isinstance(node.func, ast.Name) and node.func.id in ("len", "isinstance", "type", "range"):
                return None
            if self._follow(node):
                return _result_of(node.func)
        if isinstance(node, ast.Lambda):
            return None
        if isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
            return self._name_in_comprehension(node)
        if self._is_local(node):
            return _path(node)
        if text_key(node) is not None:  # what else is in there does not count
            return self._name_of_whole(node)
        if part := self._part_of(node):
            return part
        return next(
            filter(None, (self._name_in(c) for c in ast.iter_child_nodes(node) if isinstance(c, ast.expr))), None
        )

    def _is_local(self, node: ast.expr) -> bool:
        path = _path(node)
        return bool(path) and (path in self.local or self._held.holds(node, self._names, self.cells))

    def _is_given_local(self, argument: ast.expr) -> bool:
        """Whether an argument is local as a whole: what is so in it is known by its name."""
        if not _path(argument):
            return self._name_in(argument) is not None
        return self._is_local(argument) or self._name_of_whole(argument) is not None

    def _name_of_whole(self, node: ast.expr) -> str | None:
        """Return the name of a local value that a part of something is in."""
        while isinstance(node, ast.Subscript | ast.Attribute):
            node = node.value
            if self._is_local(node):
                return _path(node)
        return None if isinstance(node, ast.Name) else self._name_in(node)

    def _part_of(self, node: ast.expr) -> str | None:
        """Return the name of a dict of which something under a key is local."""
        path = _path(node)
        known = bool(path) and any(p.startswith(f"{path}[") for p in self.local)
        return path if known or (path and self._held.holds_part(node, self._names, self.cells)) else None

    def _name_in_comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> str | None:
        """Its own variables are none of the loop's."""
        if name := next(filter(None, (self._name_in(g.iter) for g in node.generators)), None):
            return name
        kept = set(self.local)
        self.local -= {path for g in node.generators for path in paths_of(g.target)}
        parts = (node.key, node.value) if isinstance(node, ast.DictComp) else (node.elt,)
        name = next(filter(None, map(self._name_in, parts)), None)
        self.local = kept
        return name

    def _follow(self, node: ast.Call) -> set[int]:
        """Read the function of the user's that is called, once a statement. Returns what of its result is local: see `returns`."""
        if id(node) not in self._results:
            self._results[id(node)] = set()  # where it is asked for by itself
            found = called(node, self._names) if self._deep and self._left[0] else None
            self._results[id(node)] = set() if found is None else self._read_called(found)
        return self._results[id(node)]

    def _read_called(self, found: Called) -> set[int]:
        """Read a function that is called, with what is local here."""
        self._left[0] -= 1
        paths = {parameter: _path(argument) for parameter, (argument, _) in found.given.items()}
        objects = {parameter: thing for parameter, (_, thing) in found.given.items() if thing is not None}
        names = {**found.values, **objects}
        inside = _Reader(found.code, names, deep=self._deep - 1, left=self._left, held=self._held)
        inside.cells = found.cells
        inside._under, inside._is_called = self._under, True
        inside.local = {p for p, (argument, _) in found.given.items() if self._is_given_local(argument)}
        inside.local.update(moved(self.local, {path: p for p, path in paths.items() if path}))
        common, its_own = shared(found)
        inside.local.update(self.local & common)
        inside.block(found.body)
        self.found = self.found or inside.found
        # what it does to a parameter itself is no longer the caller's where it gives that name another value
        own = {
            n.id for s in found.body for n in ast.walk(s) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
        }
        outside = {p: path for p, path in paths.items() if path}
        self.local -= {path for path in self.local if any(is_part(path, known) for known in outside.values())}
        self.local.update(moved({p for p in inside.local if p not in own}, outside))
        self.local = (self.local - its_own) | (inside.local & its_own)
        return inside.returns


def _result_of(function: ast.expr) -> str:
    return f"the result of {ast.unparse(function)}()"
