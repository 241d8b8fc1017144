"""Language as it is published: GPT, padded sentences, recurrent nets, experts, adapters; metrics over gathered rows."""

import dataclasses
import math
import random
from functools import partial

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from kinds import POINTS, TOKENS, Points, mlp, program, waves
from practice import fit_tracked, sgd
from torch import nn
from torch.utils.data import ConcatDataset, Dataset, TensorDataset, WeightedRandomSampler

import surefoot


class GPT(nn.Module):
    def __init__(self, v=23, d=16, n=2):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(v, d), nn.Embedding(8, d)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(d, 2, 32, dropout=0.1, batch_first=True, norm_first=True) for _ in range(n)
        )
        self.ln = nn.LayerNorm(d)
        self.head = nn.Linear(d, v, bias=False)
        self.head.weight = self.wte.weight
        self.register_buffer("mask", torch.triu(torch.ones(8, 8), 1).bool(), persistent=False)
        self.apply(self._init)

    def _init(self, m):
        if isinstance(m, (nn.Linear, nn.Embedding)):
            nn.init.normal_(m.weight, std=0.02)

    def forward(self, ids, ckpt=False):
        t = ids.shape[1]
        x = self.wte(ids) + self.wpe(torch.arange(t))
        for b in self.blocks:
            f = partial(b, src_mask=self.mask[:t, :t], is_causal=True)
            x = torch.utils.checkpoint.checkpoint(f, x, use_reentrant=False) if ckpt else f(x)
        return self.head(self.ln(x))


@program(steps=6)
def gpt_accumulating(run: surefoot.Run) -> None:
    """Weight tying, micro-batches, bf16 autocast, clipping, cosine by hand with warmup, checkpointed blocks."""
    model = GPT()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1)
    run.track(model=model, optimizer=optimizer)
    ctx = torch.autocast("cpu", dtype=torch.bfloat16)

    def get_lr(it):
        return 1e-2 * (it + 1) / 2 if it < 2 else 1e-3 + 0.5 * (1 + math.cos(math.pi * it / 6)) * 9e-3

    for step in run.steps(run.config["steps"]):
        lr = get_lr(step.number)
        for group in optimizer.param_groups:
            group["lr"] = lr
        for ids, _ in step.batches(TOKENS):
            for micro in ids.chunk(2):
                with ctx:
                    logits = model(micro[:, :-1], ckpt=step.number % 2 == 0)
                    loss = F.cross_entropy(logits.flatten(0, 1), micro[:, 1:].flatten()) / 2
                loss.backward()
            step.log(loss=loss)
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step.log(lr=lr, norm=norm)


@program(steps=6)
def gpt_accumulate_flag(run: surefoot.Run) -> None:
    model = GPT()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: min(1, (n + 1) / 3))
    run.track(model=model, optimizer=optimizer, schedule=schedule)
    for step in run.steps(run.config["steps"]):
        for ids, _ in step.batches(TOKENS, accumulate=True):
            loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()) / 2
            loss.backward()
            step.log(loss=loss)
        if step.every(2):
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()


@program(steps=6)
def lstm_with_reset_states(run: surefoot.Run) -> None:
    class Language(nn.Module):
        def __init__(self):
            super().__init__()
            self.emb, self.rnn, self.out = (
                nn.Embedding(23, 8),
                nn.LSTM(8, 8, 2, dropout=0.2, batch_first=True),
                nn.Linear(8, 23),
            )
            self.hidden = None

        def reset(self, n):
            self.hidden = (torch.zeros(2, n, 8), torch.zeros(2, n, 8))

        def forward(self, ids):
            out, self.hidden = self.rnn(self.emb(ids), self.hidden)
            self.hidden = tuple(h.detach() for h in self.hidden)
            return self.out(out)

    model = Language()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for ids, _ in step.batches(TOKENS):
            model.reset(len(ids))
            for part in (ids[:, :3], ids[:, 3:]):
                loss = F.cross_entropy(model(part[:, :-1]).flatten(0, 1), part[:, 1:].flatten())
                loss.backward()
            step.log(loss=loss)
        nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()


@program(steps=6)
def f1_and_auc(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    held = TensorDataset(waves(37, 8), torch.arange(37) % 3)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        if step.every(2):
            for x, y in step.evaluate(held):
                out = model(x)
                step.log(val=F.cross_entropy(out, y))
                step.gather(score=out.softmax(1)[:, 1], label=y)
            score, label = step.gathered["score"], step.gathered["label"]
            auc = (score[label == 1][:, None] > score[label != 1][None]).float().mean()
            step.log(auc=auc)


@program(steps=6)
def weighted_sampler_object(run: surefoot.Run) -> None:
    model = mlp()
    optimizer = sgd(model)
    run.track(model=model, optimizer=optimizer)
    weights = [0.2 + (i % 3) for i in range(100)]
    sampler = WeightedRandomSampler(weights, 100, replacement=True)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS, sampler=sampler):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@dataclasses.dataclass
class Batch:
    x: torch.Tensor
    y: torch.Tensor
    lengths: list


class Sentences(Dataset):
    def __len__(self):
        return 100

    def __getitem__(self, i):
        n = 2 + i * 7 % 5
        return {"ids": [(i + k) % 22 + 1 for k in range(n)], "label": i % 3, "text": "w" * n}


def pad_collate(items):
    ids = nn.utils.rnn.pad_sequence([torch.tensor(s["ids"]) for s in items], batch_first=True)
    return Batch(ids, torch.tensor([s["label"] for s in items]), [len(s["ids"]) for s in items])


@program(steps=6)
def padded_sentences(run: surefoot.Run) -> None:
    emb, rnn, head = (
        nn.Embedding(23, 8, padding_idx=0),
        nn.GRU(8, 8, batch_first=True, bidirectional=True),
        nn.Linear(16, 3),
    )
    model = nn.ModuleDict({"emb": emb, "rnn": rnn, "head": head})
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    run.track(model=model, optimizer=optimizer)
    data = Sentences()
    for step in run.steps(run.config["steps"]):
        for batch in step.batches(data, collate=pad_collate):
            packed = nn.utils.rnn.pack_padded_sequence(
                emb(batch.x), batch.lengths, batch_first=True, enforce_sorted=False
            )
            _, h = rnn(packed)
            loss = F.cross_entropy(head(torch.cat([h[0], h[1]], 1)), batch.y)
            loss.backward()
            step.weigh(sum(batch.lengths))
            step.log(loss=loss)
        optimizer.step()


@program(steps=6, data_workers=2)
def padded_sentences_by_workers(run: surefoot.Run) -> None:
    padded_sentences(run)


@program(steps=6)
def multi_task(run: surefoot.Run) -> None:
    """Two data sets zipped: one of them through `batches`, the other indexed by hand in the inner loop."""
    trunk, a, b = nn.Linear(8, 8), nn.Linear(8, 3), nn.Linear(8, 1)
    model = nn.ModuleDict({"trunk": trunk, "a": a, "b": b})
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    run.track(model=model, optimizer=optimizer)
    both = ConcatDataset([POINTS, TensorDataset(waves(60, 8).cos(), torch.arange(60) % 3)])
    for step in run.steps(run.config["steps"]):
        optimizer.zero_grad()
        for x, y in step.batches(both, accumulate=True):
            loss = F.cross_entropy(a(F.relu(trunk(x))), y)
            loss.backward()
            step.log(ce=loss)
        for x, _ in step.batches(Points(), accumulate=True):
            loss = F.mse_loss(b(F.relu(trunk(x)))[:, 0], x.sum(1))
            loss.backward()
            step.log(mse=loss)
        optimizer.step()


@program(steps=6)
def embedding_bags_and_sparse_like(run: surefoot.Run) -> None:
    """Word2vec: only a few rows get gradients; Adagrad."""
    inside, outside = nn.Embedding(23, 4), nn.EmbeddingBag(23, 4, mode="sum")
    optimizer = torch.optim.Adagrad([*inside.parameters(), *outside.parameters()], lr=0.1)
    run.track(inside=inside, outside=outside, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for ids, _ in step.batches(TOKENS):
            neg = torch.multinomial(torch.ones(23), len(ids))
            a, b = inside(ids[:, 0]), outside(ids[:, 1:])
            loss = -F.logsigmoid((a * b).sum(1)).mean() - F.logsigmoid(-(a * inside(neg)).sum(1)).mean()
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(steps=6)
def attention_maps_kept(run: surefoot.Run) -> None:
    """forward leaves what it made in attributes; a rotary cache is made at the first forward, as a plain attribute."""

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.emb, self.qkv, self.out = nn.Embedding(23, 8), nn.Linear(8, 24), nn.Linear(8, 3)
            self.cache, self.last, self.calls = {}, None, 0

        def rotary(self, n):
            if n not in self.cache:
                self.cache[n] = torch.cos(torch.arange(float(n))[:, None] * torch.arange(8.0))
            return self.cache[n]

        def forward(self, ids):
            self.calls += 1
            q, k, v = self.qkv(self.emb(ids) * self.rotary(ids.shape[1])).chunk(3, -1)
            self.last = (q @ k.transpose(1, 2) / 8**0.5).softmax(-1)
            return self.out((self.last @ v).mean(1))

    model = Attention()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for ids, y in step.batches(TOKENS):
            ids = ids[:, : random.randint(3, 6)]
            out = model(ids)
            loss = F.cross_entropy(out, y) + 0.01 * model.last.pow(2).mean()
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(refused="model.cos is a new buffer")
def rotary_buffer_in_forward(run: surefoot.Run) -> None:
    """The cache is registered as a buffer by forward, when a longer batch comes."""

    class Rotary(nn.Module):
        def __init__(self):
            super().__init__()
            self.emb, self.out, self.n = nn.Embedding(23, 8), nn.Linear(8, 3), 0

        def forward(self, ids):
            if ids.shape[1] > self.n:
                self.n = ids.shape[1]
                self.register_buffer(
                    "cos", torch.cos(torch.arange(float(self.n))[:, None] * torch.arange(8.0)), persistent=False
                )
            return self.out((self.emb(ids) * self.cos[: ids.shape[1]]).mean(1))

    model = Rotary()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    run.track(model=model, optimizer=optimizer)
    fit_tracked(run, model, optimizer, TOKENS)


@program(steps=6)
def mixture_of_experts(run: surefoot.Run) -> None:
    """Top-1 routing: an expert may get no gradient in a sub-task or a step; Adam with weight decay; a balance loss."""

    class MoE(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate, self.experts, self.out = (
                nn.Linear(8, 6),
                nn.ModuleList(nn.Linear(8, 8) for _ in range(6)),
                nn.Linear(8, 3),
            )

        def forward(self, x):
            probs = self.gate(x).softmax(1)
            w, which = probs.max(1)
            y = torch.zeros_like(x)
            for e, expert in enumerate(self.experts):
                at = (which == e).nonzero()[:, 0]
                if len(at):
                    y = y.index_add(0, at, expert(x[at]) * w[at, None])
            self.balance = probs.mean(0).pow(2).sum()
            return self.out(y)

    model = MoE()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.1)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y) + 0.1 * model.balance
            loss.backward()
            step.log(loss=loss)
        optimizer.step()


@program(steps=6)
def low_rank_adapters(run: surefoot.Run) -> None:
    """LoRA: a frozen base, adapters that replace modules before the loop, a merge and unmerge for evaluation."""

    class LoRA(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base = base.requires_grad_(False)
            self.a, self.b = nn.Parameter(torch.randn(2, 8) * 0.1), nn.Parameter(torch.zeros(base.out_features, 2))

        def forward(self, x):
            return self.base(x) + x @ self.a.T @ self.b.T

    model = mlp()
    model[0], model[2] = LoRA(model[0]), LoRA(model[2])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(run.config["steps"]):
        for x, y in step.batches(POINTS):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            step.log(loss=loss)
        optimizer.step()
        if step.every(2):
            for m in (model[0], model[2]):
                m.base.weight.data += m.b.data @ m.a.data
            for x, y in step.evaluate(POINTS):
                step.log(val=F.cross_entropy(model(x), y))
            for m in (model[0], model[2]):
                m.base.weight.data -= m.b.data @ m.a.data
