"""State images: a survey as bytes that travel between trainers, and back."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from typing import Any

import torch

from surefoot.errors import ContractError
from surefoot_actors.disclosed import holds_secret
from surefoot_actors.engine.state.survey import Survey, dump_tree, load_tree
from surefoot_actors.engine.types import StateImage
from surefoot_actors.engine.vector.memory import Spec, flat_bytes, make_like, write_into

__all__ = ["SavedState", "read_image", "skeleton_of", "write_image"]


def skeleton_of(survey: Survey) -> bytes:
    """Return all of the state that is not in tensors, and their specs. Only ever read in trainers, which run the user's code."""
    trees = [(name, dump_tree(survey, name)) for name in survey.objects]
    for name, tree in trees:
        if holds_secret(tree):
            raise ContractError(
                f"a secret is part of what is tracked as {name!r}, and would be stored with every checkpoint: read it from os.environ "
                "where it is used, and keep it out of tracked objects"
            )
    return pickle.dumps((trees, survey.specs(), survey.along()), protocol=5)


def write_image(survey: Survey) -> StateImage:
    """Return the survey's image. Its tensors may alias the live ones."""
    return StateImage(skeleton=skeleton_of(survey), tensors=[flat_bytes(entry.tensor) for entry in survey.entries])


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedState:
    """An image, read: the objects' trees, and their tensors."""

    # by name, in order: pickled, since objects in them hold tensors that are made when they are first asked for
    trees: dict[str, bytes]
    specs: list[Spec]
    flats: list[torch.Tensor]
    device: torch.device
    # what goes along without being part of digests
    along: Any = None
    # by number: what `tensor` has returned
    _made: dict[int, torch.Tensor] = field(default_factory=dict)

    def tree(self, name: str) -> Any:
        """Return an object's tree."""
        return load_tree(self.trees[name], self.tensor)

    def tensor(self, number: int, into: torch.Tensor | None) -> torch.Tensor:
        """Return a saved tensor: `into`, overwritten, where that is of the same shape and dtype, else a new one.

        Asked again, it returns the same tensor: what is one in the saved state is one here.
        """
        known = self._made.get(number)
        if known is None:
            known = self._made[number] = self._restored(number, into)
        return known

    def value(self, number: int) -> torch.Tensor:
        """Return a saved tensor's content, contiguous, on the CPU. It may alias the image."""
        spec, flat = self.specs[number], self.flats[number]
        if flat.data_ptr() % spec.dtype.itemsize or flat.storage_offset() % spec.dtype.itemsize:
            flat = flat.clone()  # received into the middle of a larger buffer
        return flat.view(spec.dtype).view(spec.shape)

    def _restored(self, number: int, into: torch.Tensor | None) -> torch.Tensor:
        spec, value = self.specs[number], self.value(number)
        fits = into is not None and into.dtype == spec.dtype and into.shape == value.shape
        if into is not None and fits and into.stride() == spec.stride:
            write_into(into.detach(), value)
            return into
        device = torch.device("cpu") if spec.on_cpu else self.device
        first = self._made.get(spec.shares[0]) if spec.shares else None
        made = make_like(spec, device, first)
        write_into(made.detach(), value)
        if into is not None and fits:
            into.data = made.detach()  # the same object, whose memory lies otherwise from now on
            return into
        return made


def read_image(image: StateImage, device: torch.device) -> SavedState:
    """Return what an image holds. Raises ContractError when tensors and skeleton do not belong together."""
    trees, specs, along = pickle.loads(image.skeleton)  # noqa: S301 - written by a trainer of this job, or of one whose checkpoint the user gave
    if [spec.nbytes for spec in specs] != [t.numel() for t in image.tensors]:
        raise ContractError("a state image is damaged: its tensors are not of the sizes that its skeleton tells")
    return SavedState(trees=dict(trees), specs=specs, flats=image.tensors, device=device, along=along)
