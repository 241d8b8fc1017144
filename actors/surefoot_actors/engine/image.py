"""State images: a survey as bytes that travel between trainers, and back."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import torch

from surefoot.errors import ContractError
from surefoot_actors.engine.survey import Survey
from surefoot_actors.engine.types import StateImage

__all__ = ["SavedState", "flat_bytes", "read_image", "skeleton_of", "write_image"]


def flat_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor's bytes in row-major order: flat uint8 on the CPU, aliasing it where it lies so already."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)


def skeleton_of(survey: Survey) -> bytes:
    """Return all of the state that is not in tensors, and their specs. Only ever read in trainers, which run the user's code."""
    specs = [(e.name, e.tensor.dtype, tuple(e.tensor.shape), e.tensor.device.type == "cpu") for e in survey.entries]
    return pickle.dumps((survey.objects, specs), protocol=5)


def write_image(survey: Survey) -> StateImage:
    """Return the survey's image. Its tensors may alias the live ones."""
    return StateImage(skeleton=skeleton_of(survey), tensors=[flat_bytes(entry.tensor) for entry in survey.entries])


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedState:
    """An image, read: the objects' trees, and their tensors."""

    objects: dict[str, Any]
    specs: list[tuple[str, torch.dtype, tuple[int, ...], bool]]
    flats: list[torch.Tensor]
    device: torch.device

    def tensor(self, number: int, into: torch.Tensor | None) -> torch.Tensor:
        """Return a saved tensor: `into`, overwritten, where that is of the same shape and dtype, else a new one."""
        _, dtype, shape, on_cpu = self.specs[number]
        flat = self.flats[number]
        if flat.data_ptr() % dtype.itemsize or flat.storage_offset() % dtype.itemsize:
            flat = flat.clone()  # received into the middle of a larger buffer
        value = flat.view(dtype).view(shape)
        if into is not None and into.dtype == dtype and into.shape == value.shape:
            return into.copy_(value)
        # Optimizers keep some state, such as step counts, on the host.
        return value.clone() if on_cpu else value.to(self.device, copy=True)


def read_image(image: StateImage, device: torch.device) -> SavedState:
    """Return what an image holds. Raises ContractError when tensors and skeleton do not belong together."""
    objects, specs = pickle.loads(image.skeleton)  # noqa: S301 - written by a trainer of this job, or of one whose checkpoint the user gave
    sizes = [torch.Size(shape).numel() * dtype.itemsize for _, dtype, shape, _ in specs]
    if sizes != [t.numel() for t in image.tensors]:
        raise ContractError("a state image is damaged: its tensors are not of the sizes that its skeleton tells")
    return SavedState(objects=objects, specs=specs, flats=image.tensors, device=device)
