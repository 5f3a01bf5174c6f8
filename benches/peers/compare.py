#!/usr/bin/env python3
"""Plimsoll and its peers on the same rows and queries, in one run, in turns.

One thread, one query at a time, the ten nearest. Recall is computed here, from the ids that each system returned, against
exact search: an answer counts when its true distance is no worse than the true tenth. Plimsoll is used as a user would: import, flush,
compact, then `bench search` on the database on disk. Every round runs the settings of each peer and of Plimsoll; a
setting's figure is the median of the rounds, in queries per processor second, and the table reads each system's best
settings at three recalls. The peers are called from Python: what such a call takes on an index of ten rows is taken off."""

import argparse
import collections
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time

# Before numpy and the peers read them.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", RAYON_NUM_THREADS="1")

import numpy as np  # noqa: E402

from peers import K, PEERS  # noqa: E402

TARGETS = (0.90, 0.95, 0.99)
WARM_UP = 50
# So long a setting may take in a round; then it is measured with fewer queries, at least a hundred.
BUDGET_S = 2.0


def exact(rows, queries, cosine):
    """The distances of the K nearest rows of each query, in float64."""
    worst = np.empty(len(queries))
    norms = (rows * rows).sum(1)
    for start in range(0, len(queries), 256):
        block = queries[start : start + 256]
        scores = -(block @ rows.T) if cosine else norms - 2 * (block @ rows.T)
        near = np.argpartition(scores, min(4 * K, len(rows) - 1), axis=1)[:, : 4 * K]
        for at, ids in enumerate(near):
            worst[start + at] = np.sort(distances(rows[ids], block[at], cosine))[K - 1]
    return worst


def distances(rows, query, cosine):
    rows, query = rows.astype(np.float64), query.astype(np.float64)
    return -(rows @ query) if cosine else ((rows - query) ** 2).sum(1)


def recall(answers, rows, queries, worst, cosine):
    """The share of the true nearest rows that the answers hold; there may be fewer answers than queries."""
    found = 0
    for answer, query, limit in zip(answers, queries, worst):
        ids = np.unique([row for row in answer[:K] if row >= 0]).astype(np.int64)
        found += int((distances(rows[ids], query, cosine) <= limit + 1e-6 * max(1, abs(limit))).sum())
    return found / (K * len(answers))


def measure(peer, queries):
    """The answers to queries, and how many microseconds of a processor each took on average."""
    for query in queries[-WARM_UP:]:
        peer.search(query)
    answers = []
    start, cpu = time.perf_counter(), time.process_time()
    for query in queries:
        answers.append(peer.search(query))
        if len(answers) >= 100 and time.perf_counter() - start > BUDGET_S:
            break
    wall = time.perf_counter() - start
    return answers, 1e6 * min(wall, time.process_time() - cpu) / len(answers)


def overhead(peer, dimension):
    """What a call of a peer that was not built yet takes where there is nothing to search, in microseconds."""
    rows = np.random.default_rng(0).standard_normal((K, dimension)).astype(np.float32)
    peer.build_trivial(rows)
    return min(measure(peer, np.repeat(rows, 100, axis=0))[1] for _ in range(5))


def at(points, target):
    """Queries per second at a recall, on the best settings: log QPS against log(1 - recall), between two of them."""
    front, best = [], 0
    for point in sorted(points, reverse=True):
        if point[1] > best:
            front.append(point)
            best = point[1]
    front.sort()
    if not front or front[-1][0] < target:
        return None
    if front[0][0] >= target:
        return front[0][1]
    place = lambda r: -math.log(max(1 - r, 1e-6))  # noqa: E731
    for (r0, q0), (r1, q1) in zip(front, front[1:]):
        if r0 < target <= r1:
            share = (place(target) - place(r0)) / (place(r1) - place(r0))
            return math.exp(math.log(q0) * (1 - share) + math.log(q1) * share)
    return None


class Plimsoll:
    """A database in a directory, and the program that makes and searches it."""

    def __init__(self, program, work, base, queries, cosine):
        self.program, self.db = program, f"{work}/db"
        self.queries, self.results = f"{work}/queries.npy", f"{work}/results.jsonl"
        np.save(f"{work}/base.npy", base)
        np.save(self.queries, queries)
        cpu = os.times()
        metric = "cosine" if cosine else "l2"
        self.run("import", self.db, "c", f"{work}/base.npy", "--metric", metric)
        self.run("flush", self.db)
        self.run("compact", self.db)
        after = os.times()
        self.build_s = after.children_user + after.children_system - cpu.children_user - cpu.children_system

    def run(self, *words):
        done = subprocess.run([self.program, *words], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"plimsoll {' '.join(words)}: {done.stderr}")

    def sweep(self):
        """Each setting, its answers, and the microseconds of a processor that a query took."""
        self.run("bench", "search", self.db, "c", "--queries", self.queries, "-k", str(K), "--results", self.results)
        with open(self.results) as lines:
            for line in map(json.loads, lines):
                yield str(line["param"]), line["ids"], np.mean(line["ns"]) / 1e3 * min(1, line["cpu_over_wall"])


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="the rows, a .npy file")
    parser.add_argument("queries", help="the queries, a .npy file")
    parser.add_argument("--metric", choices=["cosine", "l2"], default="cosine")
    parser.add_argument("--plimsoll", default="plimsoll", help="the program [default: the one in PATH]")
    parser.add_argument("--peers", help=f"of {', '.join(PEERS)} [default: all that are installed]")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=int, help="use only the first so many queries")
    parser.add_argument("--work", help="where temporary files go [default: the system's directory]")
    return parser.parse_args()


def make_peers(names, dimension, cosine):
    """The peers that are wanted, or all that are installed."""
    made = {}
    for name in names or PEERS:
        try:
            made[name] = PEERS[name](dimension, cosine)
        except ImportError as error:
            if names:
                sys.exit(f"{name}: {error}; setup.sh installs it")
            print(f"{name} is left out: {error}", file=sys.stderr)
    return made


def main():
    args = arguments()
    names = args.peers.split(",") if args.peers else []
    if unknown := [name for name in names if name not in PEERS]:
        sys.exit(f"no such peer: {', '.join(unknown)}; there are {', '.join(PEERS)}")
    cosine = args.metric == "cosine"
    base, queries = (np.ascontiguousarray(np.load(file), np.float32) for file in (args.base, args.queries))
    queries = queries[: args.limit]
    if cosine:
        base, queries = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (base, queries))
    peers = make_peers(names, base.shape[1], cosine)
    worst = exact(base, queries, cosine)
    work = tempfile.mkdtemp(prefix="plimsoll-peers-", dir=args.work)
    try:
        compare(args, base, queries, worst, cosine, peers, work)
    finally:
        shutil.rmtree(work)


def compare(args, base, queries, worst, cosine, peers, work):
    builds, calls = {}, {}
    plimsoll = Plimsoll(args.plimsoll, work, base, queries, cosine)
    builds["plimsoll"] = plimsoll.build_s
    for name, peer in peers.items():
        cpu = time.process_time()
        peer.build(base)
        builds[name] = time.process_time() - cpu
        calls[name] = overhead(PEERS[name](base.shape[1], cosine), base.shape[1])
        print(f"{name} built in {builds[name]:.1f} s", file=sys.stderr)
    # (system, setting) to the (recall, queries per second) of the rounds.
    points = collections.defaultdict(list)
    for number in range(args.rounds):
        for name, peer in peers.items():
            for setting in peer.settings:
                peer.set(setting)
                answers, us = measure(peer, queries)
                found = recall(answers, base, queries, worst, cosine)
                points[name, str(setting)].append((found, 1e6 / max(us - calls[name], 0.1)))
        for setting, answers, us in plimsoll.sweep():
            points["plimsoll", setting].append((recall(answers, base, queries, worst, cosine), 1e6 / us))
        print(f"round {number + 1} of {args.rounds} done", file=sys.stderr)
    report(args, base, queries, builds, calls, points)


def report(args, base, queries, builds, calls, points):
    curves = collections.defaultdict(list)
    for (name, _), rounds in points.items():
        curves[name].append(tuple(np.median(rounds, axis=0)))
    table = {name: [at(curves[name], target) for target in TARGETS] for name in builds}
    print(f"{len(base)} x {base.shape[1]}, {args.metric}, {len(queries)} queries, recall@{K}, {args.rounds} rounds,")
    print("one thread, one query at a time, queries per processor second\n")
    print("| system |" + "".join(f" recall {target} |" for target in TARGETS) + " build CPU s | call µs, taken off |")
    print("|---|" + "---:|" * (len(TARGETS) + 2))
    for name, figures in sorted(table.items(), key=lambda row: -(row[1][1] or 0)):
        cells = ["-" if qps is None else f"{qps:,.0f}" for qps in figures]
        call = calls.get(name)
        print("| " + " | ".join([name, *cells, f"{builds[name]:.1f}", "-" if call is None else f"{call:.1f}"]) + " |")
    for place, target in enumerate(TARGETS):
        others = [(figures[place], name) for name, figures in table.items() if name != "plimsoll" and figures[place]]
        ours = table["plimsoll"][place]
        if ours and others:
            best, name = max(others)
            print(f"\nrecall {target}: {ours / best:.2f} times the best peer, {name}", end="")
    print()


if __name__ == "__main__":
    main()
