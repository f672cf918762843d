"""The workloads of the benchmarks compute what Python computes."""

import heapq
import json
import math
import random
import re
import zlib
from collections import deque

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from tests.examples.plain import EXAMPLES

WORKLOADS = EXAMPLES / "workloads"


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)  # noqa: S311 - the same each time


@pytest.fixture
def work(run):
    """Run a workload and return its output."""

    def work(name: str, *arguments: str, **given) -> bytes:
        ran = run(WORKLOADS / f"{name}.wasm", *arguments, **given)
        assert (ran.status, ran.stderr) == (0, b"")
        return ran.stdout

    return work


def lcg(count: int) -> list[int]:
    state, numbers = 1, []
    for _ in range(count):
        state = (state * 1664525 + 1013904223) % 2**32
        numbers.append(state)
    return numbers


def test_html_is_a_page_of_its_query_with_the_name_escaped(work):
    page = work("html", environment={"QUERY_STRING": "count=3&name=<A>"}).decode()
    head, _, body = page.partition("\n\n")
    assert head == "Content-Type: text/html; charset=utf-8"
    assert "Welcome, &lt;A&gt;!" in body
    assert re.findall(r"<li>(\d+)</li>", body) == [str(n >> 12) for n in lcg(3)]
    assert work("html").count(b"<li>") == 10


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"a",
        b"abc" * 1000,
        bytes(300),
        (EXAMPLES / "README.md").read_bytes(),
        (EXAMPLES / "sort" / "sort.wasm").read_bytes() * 3,
        noise(100_000),
    ],
    ids=["nothing", "one byte", "a cycle", "a run", "text", "code", "noise"],
)
def test_deflate_makes_what_zlib_reads(work, data):
    assert zlib.decompress(work("deflate", stdin=data)) == data


def test_deflate_packs_about_as_well_as_zlib_with_fixed_codes(work):
    text = (EXAMPLES.parent / "docs" / "architecture.md").read_bytes()
    zlibs = zlib.compressobj(strategy=zlib.Z_FIXED)
    assert len(work("deflate", stdin=text)) < 1.05 * len(zlibs.compress(text) + zlibs.flush())


class Graph:
    """The graph that `graph` generates."""

    def __init__(self, vertices: int, degree: int) -> None:
        self._state = 1
        self.edges = []
        self.near: list[list[tuple[int, int]]] = [[] for _ in range(vertices)]
        for i in range(vertices * degree):
            here = i % vertices
            if i < vertices:
                there = self._random() % here if here else 0
            else:
                there = self._random() % vertices
            weight = self._random() % 1_000_000
            self.near[here].append((weight, there))
            self.near[there].append((weight, here))

    def _random(self) -> int:
        x = self._state
        x ^= x << 13 & 0xFFFFFFFF
        x ^= x >> 17
        x ^= x << 5 & 0xFFFFFFFF
        self._state = x
        return x


def test_graph_bfs_finds_the_distances(work):
    near = Graph(500, 3).near
    distance, queue = {0: 0}, deque([0])
    while queue:
        here = queue.popleft()
        for _, there in near[here]:
            if there not in distance:
                distance[there] = distance[here] + 1
                queue.append(there)
    said = f"reached {len(distance)}, sum of distances {sum(distance.values())}\n"
    assert work("graph", "bfs", "500", "3").decode() == said


def test_graph_mst_has_the_least_weight(work):
    near = Graph(500, 3).near
    seen, total, ahead = set(), 0, [(0, 0)]
    while ahead:
        weight, here = heapq.heappop(ahead)
        if here not in seen:
            seen.add(here)
            total += weight
            for edge in near[here]:
                heapq.heappush(ahead, edge)
    assert work("graph", "mst", "500", "3").decode() == f"edges {len(seen) - 1}, weight {total}\n"


def test_graph_pagerank_finds_the_best_vertex(work):
    near = Graph(200, 3).near
    rank = [1 / len(near)] * len(near)
    for _ in range(20):
        following = [0.15 / len(near)] * len(near)
        for here, edges in enumerate(near):
            for _, there in edges:
                following[there] += 0.85 * rank[here] / len(edges)
        rank = following
    best = max(range(len(rank)), key=rank.__getitem__)
    said = re.fullmatch(r"best (\d+), rank (\S+)\n", work("graph", "pagerank", "200", "3").decode())
    assert said is not None
    assert int(said[1]) == best
    assert float(said[2]) == pytest.approx(rank[best])


@pytest.mark.parametrize(("width", "height", "side"), [(100, 60, 32), (7, 90, 10), (5, 5, 50)])
def test_thumbnail_averages_the_pixels_of_each_box(work, width, height, side):
    pixels = noise(width * height * 3)
    longer = max(width, height)
    w, h = (max(1, n * min(side, longer) // longer) for n in (width, height))
    expected = bytearray()
    for y in range(h):
        for x in range(w):
            rows = range(y * height // h, (y + 1) * height // h)
            columns = range(x * width // w, (x + 1) * width // w)
            for c in range(3):
                box = [pixels[(r * width + k) * 3 + c] for r in rows for k in columns]
                expected.append(sum(box) // len(box))
    image = b"P6\n%d %d\n255\n" % (width, height) + pixels
    assert work("thumbnail", str(side), stdin=image) == b"P6\n%d %d\n255\n" % (w, h) + expected


def test_json_prints_what_it_parsed(work):
    value = {"a": [1, -2.5, 1e3, True, None, {}, []], "b\n": 'x "y" \\ \u00e9', "": {"c": [[0]]}}
    compact = json.dumps(value, separators=(",", ":"))
    for text in (json.dumps(value, indent=2), compact):
        assert work("json", stdin=text.encode()).decode() == compact


@pytest.mark.parametrize(
    "text", ["", "[1,]", '{"a" 1}', "01", "tru", '"', "[1] 2", "1.", "[" * 300, '"\n"', "nul"]
)
def test_json_refuses_what_is_no_json(run, text):
    ran = run(WORKLOADS / "json.wasm", stdin=text.encode())
    assert ran.status == 2
    assert ran.stdout == b""


def test_linpack_solves_its_equations(work):
    said = re.fullmatch(r"60 equations, largest error (\S+)\n", work("linpack", "60").decode())
    assert said is not None
    assert 0 < float(said[1]) < 1e-9


def test_chacha_encrypts_as_the_library_does(work):
    key, data = bytes(range(32)), noise(100_003)
    cipher = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
    assert work("chacha", key.hex(), stdin=data) == cipher.update(data)


def test_floats_adds_up_what_python_does(work):
    expected = sum(math.sin(i) * math.cos(i) + math.sqrt(i) for i in range(1000))
    assert float(work("floats", "1000")) == pytest.approx(expected, abs=1e-5)
