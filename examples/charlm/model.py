"""A GPT on bytes: pre-norm blocks, causal attention, learned positions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["GPT"]

NUM_BYTES = 256


class Block(nn.Module):
    """Attention and a 4x MLP, each on a normed copy and added back. float32 [n, context, width] in and out."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.dropout(self._attend(self.norm1(x)))
        out: torch.Tensor = x + self.dropout(self.down(F.gelu(self.up(self.norm2(x)))))
        return out

    def _attend(self, x: torch.Tensor) -> torch.Tensor:
        n, context, width = x.shape
        q, k, v = (t.view(n, context, self.heads, -1).transpose(1, 2) for t in self.qkv(x).split(width, dim=2))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: torch.Tensor = self.proj(attended.transpose(1, 2).reshape(n, context, width))
        return out


class GPT(nn.Module):
    """int64 bytes [n, context] to logits float32 [n, context, 256]. 10.9 million parameters with the default sizes."""

    def __init__(
        self, *, width: int = 384, heads: int = 6, layers: int = 6, context: int = 128, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.byte, self.position = nn.Embedding(NUM_BYTES, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*[Block(width, heads, dropout) for _ in range(layers)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, NUM_BYTES, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.byte(x) + self.position.weight[: x.shape[1]]
        logits: torch.Tensor = self.head(self.norm(self.blocks(hidden)))
        return logits
