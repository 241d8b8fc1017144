"""Recovery: from the SIGKILL of one of two workers to the next step that the run commits, beside torchft, torchrun and Ray Train.

    python benchmarks/recovery.py [--save] [--kills 15] [--rounds 5] [--peers FOLDER] [--peers-python PYTHON] [--no-peers]

Everyone trains the same tiny model with a sleep of 100 ms after each step, in one sitting and taking turns. For Surefoot the next step is
the first that a generation without the killed trainer commits; for the peers the first above the highest before the kill.
"""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

from kills import Recovery, Sleep, on_local_processes, on_ray
from measure import Spread, save, table
from peers import PEERS, Peers, find

# As the peers: slept after the step. And as real training: slept in sub-tasks, of which the lost ones are computed again.
AFTER_STEP = Sleep(sub_tasks=2, after_step_s=0.1)
IN_SUB_TASKS = Sleep(sub_tasks=8, in_sub_task_s=0.025)
OURS: dict[str, Callable[[int], list[Recovery]]] = {
    "on Ray, slept after the step": lambda kills: on_ray(kills, AFTER_STEP),
    "on local processes, slept after the step": lambda kills: on_local_processes(kills, AFTER_STEP),
    "on local processes, slept in 8 sub-tasks": lambda kills: on_local_processes(kills, IN_SUB_TASKS),
}
# What the peers are held against: the same cluster as Ray Train's, and the same place of the sleep.
LIKE_THE_PEERS = "on Ray, slept after the step"


def ours(recoveries: list[Recovery]) -> list[str]:
    """A row of the first table: all of it in milliseconds."""
    total = Spread.of(r.kill_to_step_s * 1000 for r in recoveries)
    mine = Spread.of((r.kill_to_step_s - r.in_user_code_s) * 1000 for r in recoveries)
    again = Spread.of(r.sub_tasks_again for r in recoveries)
    return [str(total.n), total.text(0), mine.text(0), again.text(0)]


def theirs(name: str, told: list[dict[str, Any] | None], base: float) -> list[str]:
    """A row of the second table. A run that told nothing hung or failed."""
    ended = [one for one in told if one is not None]
    if not ended:
        return [name, f"0 of {len(told)}", "none ended", "", ""]
    total = Spread.of(one["kill_to_new_step_s"] * 1000 for one in ended)
    redone = Spread.of(one["steps_redone"] for one in ended)
    return [name, f"{len(ended)} of {len(told)}", total.text(0), f"{total.median / base:.1f}x", redone.text(0)]


Runs = dict[str, list[Recovery]]
PeerRuns = dict[str, list[dict[str, Any] | None]]


def page(runs: Runs, peers: PeerRuns) -> str:
    parts = [
        "# Recovery\n\n`python benchmarks/recovery.py --save`: milliseconds from SIGKILL to the next committed step, median (range).",
        "Surefoot, 2 trainers, one killed. Without the train function's own code (what the survivor still had to compute "
        "or to sleep) what is left is finding out, agreeing, regrouping and exchanging:",
        table(
            ["step of 100 ms", "kills", "kill to step", "without user code", "sub-tasks computed twice"],
            [[name, *ours(recoveries)] for name, recoveries in runs.items()],
        ),
    ]
    if peers:
        base = Spread.of(r.kill_to_step_s * 1000 for r in runs[LIKE_THE_PEERS])
        rows = [["Surefoot, on Ray", f"{base.n} of {base.n}", base.text(0), "1.0x", "0 (0 to 0)"]]
        rows += [theirs(name, told, base.median) for name, told in peers.items()]
        parts += [
            "Beside the peers, slept after the step, taking turns in one sitting:",
            table(["", "recovered", "kill to step", "against Surefoot", "steps done again"], rows),
        ]
    return "\n\n".join(parts)


def sitting(args: argparse.Namespace, peers: Peers | None) -> tuple[Runs, PeerRuns]:
    """Let all take turns, `args.rounds` times."""
    runs: Runs = {name: [] for name in OURS}
    told: PeerRuns = {peer.name: [] for peer in PEERS} if peers else {}
    kills = -(-args.kills // args.rounds)
    for number in range(args.rounds):
        for name, measure in OURS.items():
            runs[name] += measure(kills)
            print(
                f"round {number + 1}: {name} {[round(r.kill_to_step_s * 1000) for r in runs[name][-kills:]]} ms",
                flush=True,
            )
        for peer in PEERS if peers else ():
            assert peers is not None
            one = peers.kill_once(peer)
            told[peer.name].append(one)
            print(f"round {number + 1}: {peer.name} {one and one['kill_to_new_step_s']} s", flush=True)
    return runs, told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=15, help="in all, of each of Surefoot's rows")
    parser.add_argument("--rounds", type=int, default=5, help="turns; each peer is killed once in a turn")
    parser.add_argument("--peers", help="folder of the peers' scripts")
    parser.add_argument("--peers-python", help="a Python with the peers installed")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/recovery.md and .json")
    args = parser.parse_args()
    try:
        with nullcontext() if args.no_peers else find(args.peers, args.peers_python) as peers:
            runs, told = sitting(args, peers)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        parser.exit(1, f"{error}\n")
    text = page(runs, told)
    print(text)
    if args.save:
        ours_told = {name: [asdict(r) for r in recoveries] for name, recoveries in runs.items()}
        save("recovery", text, {"surefoot": ours_told, "peers": told})


if __name__ == "__main__":
    main()
