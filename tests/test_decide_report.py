"""The HTML report: what a reader must find on it, that nothing of it is unescaped, and that gaps do not break it."""

import copy
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("jinja2")

from jaxquant.decide import report_text as text  # noqa: E402
from jaxquant.decide.charts import heat_levels, histogram, spread, ticks  # noqa: E402
from jaxquant.decide.loss_chart import GAP, Point, loss_chart, window  # noqa: E402
from jaxquant.decide.report import render, write_report  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
EVIL = "</script><script>alert(1)</script> <b>&amp; \"quoted\" 'single' {{ 7 * 7 }}"
VOID = {"meta", "br", "input", "wbr"}
SECTIONS = ("decision", "changed", "changed_counts", "changed_kinds", "speed", "tensors", "worst_tensor", "outliers",
            "sizes", "saved", "source", "bits", "provenance", "seconds", "model", "workload", "bar",
            "rows")  # fmt: skip


def interval(low, estimate, high):
    return {"low": low, "high": high, "estimate": estimate, "level": 0.95, "method": "exact tails"}


def verdict(result, low, estimate, high, note=""):
    return {"result": result, "bar": "lose<=2", "interval": interval(low, estimate, high), "n": 600, "p_pass": 0.01,
            "p_fail": 0.9, "variance": 0.02, "bar_variance": 0.02, "needed": None, "minimum_n": 183, "note": note,
            "exit_code": 0}  # fmt: skip


def row(scheme, about, size, score, lost=None, won=None, found=None):
    same = interval(0.96, 0.975, 0.985) if found else None
    return {"scheme": scheme, "about": about, "bytes": size, "bits_per_weight": 8 * size / 22.7e6, "score": score,
            "n": 600, "lost": lost, "won": won, "same": same, "verdict": found, "codes": 1000, "differing": 0,
            "seconds": 1.0}  # fmt: skip


def change(scheme, i, was, now, drop=0.1):
    return {"scheme": scheme, "example": i, "drop": drop, "question": f"Question {i} <T> & co?", "expected": "page c",
            "float": f"page a{i}", "quantized": f"page b{i}", "was_right": was, "is_right": now}  # fmt: skip


@pytest.fixture
def result():
    """A result as Job.result makes it, with every section."""
    rows = [
        row("float", "as it is", 90_868_376, 0.643),
        row("int8:channel", "8-bit weights", 58_669_784, 0.637, 7, 3, verdict("PASS", -0.0197, -0.0067, 0.0053)),
        row("w=int8:channel,e=int8:channel", "and embeddings", 23_041_832, 0.638, 7, 4,
            verdict("PASS", -0.018, -0.005, 0.008)),
        row("w=int8:channel,a=int8:tensor", "8-bit inputs", 58_669_784, 0.605, 39, 16,
            verdict("UNSURE", -0.064, -0.038, -0.014, "about 2,100 examples would decide")),
        row("int2:g32:sf16", "2-bit weights", 51_190_000, 0.28, 241, 23, verdict("FAIL", -0.408, -0.363, -0.318)),
    ]  # fmt: skip
    winner = rows[2]["scheme"]
    return {
        "version": 1,
        "model": {"name": "all-MiniLM-L6-v2", "path": "/models/model.safetensors", "weights": 22_713_728,
                  "classes": {"linear": {"weights": 10_764_288, "bytes": 43_057_152, "tensors": 37},
                              "embedding": {"weights": 11_917_824, "bytes": 47_671_296, "tensors": 3},
                              "other": {"weights": 31_616, "bytes": 128_512, "tensors": 64}}},
        "workload": {"name": "docstrings", "n": 600, "metric": "recall@1", "about": "600 pages\nsecond line",
                     "digest": "f9c94f792fc2"},
        "bar": {"kind": "points", "threshold": -0.02, "text": "lose<=2"},
        "rows": rows,
        "sizes": {r["scheme"]: {"linear": r["bytes"] // 2, "embedding": r["bytes"] // 2 - 20_000, "other": 9_000}
                  for r in rows},
        "bits": {"compared": 189_222_344, "differing": 0},
        "decision": {"winner": winner, "result": "PASS", "confirmed": [winner], "needed": 9800, "exit_code": 0,
                     "sentence": f"Use {winner} (23.0 MB, change -0.5 points): the smallest of 4 files shown to pass "
                                 "lose<=2.", "seconds": 70.1},
        "changed": [change(winner, 1, True, False), change(winner, 2, False, True, -0.1),
                    *(change("int2:g32:sf16", k, False, False) for k in range(8))],
        "changed_counts": {winner: 14, "int2:g32:sf16": 407},
        "changed_kinds": {winner: {"lost": 7, "changed": 3, "won": 4},
                          "int2:g32:sf16": {"lost": 241, "changed": 143, "won": 23}},
        "speed": {"rows": [{"what": "float", "batch": 1, "milliseconds": 54.8, "ratio": 1.0, "weight_bytes": 9_000_000},
                           {"what": "int4, dequantized", "batch": 1, "milliseconds": 84.9, "ratio": 1.55,
                            "weight_bytes": 53_900_000}],
                  "sentence": "No speed-up on this device (int4: 1.55 x float's time): smaller is not faster."},
        "tensors": {"scheme": winner, "rows": [
            {"name": f"encoder.{k}.weight", "kind": "linear", "shape": [384, 1536], "error": 0.03 / (k + 1),
             "sqnr_db": 30.0 + k, "worst": 0.01, "bits": 8.02} for k in range(20)]},
        "worst_tensor": {"name": "encoder.0.weight", "scheme": "int3", "edges": [k / 10 - 4.8 for k in range(97)],
                         "counts": [k % 7 for k in range(96)], "grid": [float(k) for k in range(-4, 4)],
                         "clipped": 0.0012},
        "outliers": [{"name": f"encoder.{k}.weight", "largest": 28.5, "median": 2.0, "ratio": 14.25, "worst": 99,
                      "channels": [28.5, 2.0], "map": [2.0] * 95 + [28.5]} for k in range(3)],
        "saved": {"path": "model.safetensors", "bytes": 23_041_832, "predicted": 23_041_832},
        "source": {"sha256_before": "ab" * 32, "sha256_after": "ab" * 32, "untouched": True},
        "provenance": {"python": "3.11.7", "platform": "Linux x86_64", "device": "cpu: cpu", "cores": 2,
                       "versions": {"numpy": "2.4.6", "jax": "0.10.2"}, "made": "2026-11-23 13:59:30 UTC"},
        "seconds": 85.2,
    }  # fmt: skip


class Page(HTMLParser):
    """Tags balanced, ids, links, and the text outside style and script."""

    def __init__(self, source):
        super().__init__()
        self.open, self.ids, self.links, self.words, self.tags = [], [], [], [], []
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for key, value in attrs if key == "id"]
        self.links += [value for key, value in attrs if key in ("href", "src")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", "".join(self.words))


def test_every_section_golden(result):
    page = Page(render(result))
    for told in (
        "Yes: a smaller file is good enough", "lose at most 2 points of recall@1", "23.0 MB", "25 % of float's 90.9 MB",
        "7 lost, 4 won", "−3.8", "−6.4 to −1.4", "about 2,100 examples would decide", "14 of 600 answers changed",
        "Question 1 <T> & co?", "7 lost (the worst 1 shown), 3 neither (the worst 0 shown), 4 won (the worst 1 shown)",
        "3.00 %", "30.0 dB", "14.2×", "0.12 % of the weights", "1.55×",
        "the reference", "slower", "0 bits differ", "189,222,344", "ab" * 32, "unchanged", "f9c94f792fc2",
        "numpy 2.4.6",
        "2026-11-23 13:59:30 UTC", "embedding", "How to read this page", "23,041,832 bytes",
    ):  # fmt: skip
        assert told in page.text, told
    assert page.text.index("PASS") < page.text.index("What was asked") < page.text.index("The ladder")


def test_self_contained_golden(result):
    source = render(result)
    page = Page(source)
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert len(page.ids) == len(set(page.ids))
    assert "default-src 'none'" in source and "@import" not in source and "url(" not in source
    assert len(source.encode()) < 1_000_000
    assert render(result) == source


def test_pictures_have_text_alternatives_golden(result):
    drawn = [attrs for tag, attrs in Page(render(result)).tags if tag == "svg"]
    assert drawn
    for attrs in drawn:
        assert attrs.get("aria-hidden") == "true" or (attrs.get("role") == "img" and attrs.get("aria-label"))


def poison(value):
    if isinstance(value, dict):
        return {key: value[key] if key in ("result", "kind", "level") else poison(value[key]) for key in value}
    if isinstance(value, list):
        return [poison(item) for item in value]
    return value + EVIL if isinstance(value, str) else value


def test_everything_is_escaped_property(result):
    names = {r["scheme"]: r["scheme"] + EVIL for r in result["rows"] if r["scheme"] != "float"}
    evil = poison(result)
    for section in ("sizes", "changed_counts", "changed_kinds"):
        evil[section] = {names.get(key, key): value for key, value in evil[section].items()}
    evil["rows"][0]["scheme"] = "float"
    evil["provenance"]["versions"] = {EVIL: EVIL}
    evil["model"]["classes"] = {
        "linear": result["model"]["classes"]["linear"],
        EVIL: {"weights": 1, "bytes": 1, "tensors": 1},
    }
    source = render(evil)
    page = Page(source)
    assert source.count("<script>") == 1 and "{{ 7 * 7 }}" in page.text
    assert {tag for tag, _ in page.tags} >= {"svg", "table"} and "alert(1)" in page.text
    assert not [tag for tag, attrs in page.tags if any(key.startswith("on") for key in attrs)]


@pytest.mark.parametrize("gone", SECTIONS)
def test_missing_section_property(result, gone):
    for empty in (None, type(result[gone])()):
        partial = copy.deepcopy(result) | {gone: empty}
        Page(render(partial))
    del partial[gone]
    Page(render(partial))


def test_nothing_known_golden():
    page = Page(render({}))
    assert "No decision was made" in page.text and "No row was evaluated" in page.text


@pytest.mark.parametrize("outcome", ["FAIL", "UNSURE"])
def test_no_winner_golden(result, outcome):
    result["decision"] |= {"winner": None, "result": outcome, "sentence": "No file passes lose<=2."}
    result["saved"] = None
    page = Page(render(result))
    assert "★ recommended" not in page.text and "nothing smaller is recommended" in page.text
    assert "No file passes lose ≤ 2." in page.text.replace(text.NBSP, " ")


@pytest.mark.parametrize(
    ("bar", "told"),
    [
        ({"kind": "same", "threshold": 0.95, "text": "same>=95%"}, "keep at least 95 % of the float model's answers"),
        ({"kind": "score", "threshold": 0.8, "text": "score>=0.8"}, "reach a recall@1 of at least 0.8"),
    ],
)
def test_other_bars_golden(result, bar, told):
    result["bar"] = bar
    assert told in Page(render(result)).text


def test_scores_that_are_not_binary_golden(result):
    for found in result["rows"]:
        found["lost"] = found["won"] = None
    page = Page(render(result))
    assert "× lost" not in page.text and "only lost" not in page.text
    assert "✓ right" not in page.text and "Lost" not in page.text.split("How to read this page")[0]


def test_not_a_number_golden(result):
    result["changed"][0]["drop"] = float("nan")
    result["tensors"]["rows"][0] |= {"error": float("nan"), "sqnr_db": None}
    result["tensors"]["rows"][1] |= {"error": 0.0, "sqnr_db": None}
    result["outliers"][0] |= {"map": [float("nan"), 1.0], "largest": float("nan"), "ratio": float("inf")}
    result["outliers"][1] |= {"map": [0.0, 1.0], "median": 0.0, "ratio": 0.0}
    result["speed"]["rows"][1]["ratio"] = float("inf")
    page = Page(render(result))
    assert not re.search(r"\b(nan|inf|None)\b", page.text)


def test_differing_bits_and_a_changed_source_are_told_golden(result):
    result["bits"]["differing"] = 3
    result["source"] |= {"untouched": False, "sha256_after": "cd" * 32}
    page = Page(render(result))
    assert "3 of 189,222,344" in page.text and "This is a bug" in page.text and "CHANGED during the run" in page.text


def test_model_made_in_python_golden(result):
    result["source"] |= {"sha256_before": None, "sha256_after": None}
    result["model"]["path"] = None
    assert "the model was made in Python" in Page(render(result)).text


def test_large_model_stays_small_golden(result):
    one, layer = result["tensors"]["rows"][0], result["outliers"][0]
    result["tensors"]["rows"] = [one] * 2000
    result["outliers"] = [layer | {"map": [float(k % 17) for k in range(96)]}] * 2000
    result["changed"] = [change("int2:g32:sf16", k, True, False) | {"float": "long " * 4000} for k in range(200)]
    source = render(result)
    assert len(source.encode()) < 1_000_000 and "1800 more stand in result.json" in Page(source).text


def test_write_is_whole_or_absent(result, tmp_path):
    path = tmp_path / "report.html"
    write_report(result, path)
    assert path.read_text(encoding="utf-8") == render(result)
    with pytest.raises(ValueError, match="exists"):
        write_report(result, path)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


@given(st.lists(st.floats(-100, 1100), min_size=1, max_size=30), st.floats(0, 60))
def test_spread_keeps_order_and_gap_property(wanted, gap):
    found = spread(wanted, gap, 0.0, 1000.0)
    least = min(gap, 1000.0 / (len(wanted) - 1)) if len(wanted) > 1 else gap
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    assert all(found[b] - found[a] >= least - 1e-6 for a, b in pairwise(order))
    assert all(-1e-6 <= x <= 1000 + 1e-6 for x in found)


def test_spread_leaves_what_does_not_touch():
    assert spread([10.0, 50.0, 90.0], 20, 0.0, 100.0) == [10.0, 50.0, 90.0]
    assert spread([50.0, 50.0], 20, 0.0, 100.0) == [40.0, 60.0]


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(1, 10))
def test_ticks_are_inside_property(low, span, count):
    found = ticks(low, low + span, count)
    slack = 1e-6 * span + 2 * math.ulp(max(abs(low), abs(low + span)))  # a tick is a float too
    assert all(low - slack <= t <= low + span + slack for t in found) and len(found) <= 2 * count + 2


values = st.floats(-100, 100)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(values, values, values, st.integers(0, 10**9), st.sampled_from(["PASS", "FAIL", "UNSURE"])),
             min_size=1, max_size=14),
    values, st.sampled_from([340, 920]),
)  # fmt: skip
def test_marks_lie_on_the_page_property(rows, bar, width):
    points = [
        Point(str(k), f"row {k}", size, *sorted((a, b, c)), result, k == 0)
        for k, (a, b, c, size, result) in enumerate(rows)
    ]
    floor, roof = window(points, bar, 0.0)
    assert floor < roof
    drawn = loss_chart(points, bar=bar, reference=0.0, float_bytes=10**9, axis="points", bytes_text=text.size_tick,
                       width=width, height=420)  # fmt: skip
    centres = [float(x) for x in re.findall(r'<text x="([-\d.]+)"[^>]*class="in-mark', drawn)]
    assert len(centres) == len(points) + 1 and all(0 <= x <= width for x in centres)
    assert all(b - a >= GAP - 0.2 for a, b in pairwise(sorted(centres)))  # places are written to a tenth
    assert "nan" not in drawn and "inf" not in re.sub(r"<desc>.*?</desc>", "", drawn)
    far = [
        (float(y), float(x), len(value))
        for x, y, value in re.findall(
            r'<text x="([-\d.]+)" y="([-\d.]+)" class="tick" text-anchor="middle">([-−]?[\d.,]+)</text>', drawn
        )
    ]
    assert len(far) >= sum(p.value < floor for p in points) and all(y < 420 for y, _, _ in far)
    for (y, x, letters), (below, right, others) in pairwise(sorted(far)):
        assert y != below or right - x >= 3.4 * (letters + others), (x, right)


@pytest.mark.parametrize("width", [340, 920])
def test_values_far_below_are_written_apart(width):
    """Neighbours as in the demo: on lines of their own where they would touch; the strip grows by a line each."""
    near = Point("0", "near", 90, -1.0, 0.0, 1.0, "PASS")

    def heights(*lost):
        far = [Point(str(k), "far", 50 + k, v - 1, v, v + 1, "FAIL") for k, v in enumerate(lost, 1)]
        drawn = loss_chart([near, *far], bar=-2.0, reference=0.0, float_bytes=100, axis="points",
                           bytes_text=text.size_tick, width=width, height=420)  # fmt: skip
        written = re.findall(r'y="([\d.]+)" class="tick" text-anchor="middle">−([\d.]+)<', drawn)
        at = {float(value): float(y) for y, value in written}
        return [at[-v] for v in lost]

    assert heights(-46.0) == [339] and heights(-46.0, -35.7) == [326, 339]
    assert heights(-46.0, -35.7, -88.8) == [326, 339, 326]  # the third touches the second alone
    assert heights(-146.2, -135.7, -188.8) == [313, 326, 339]


def test_histogram_draws_every_bin_golden():
    drawn = histogram([0.0, 1.0, 2.0, 3.0], [1, 0, 4], [0.0, 2.0], width=300, height=200, name="w")
    assert drawn.count("bar-fill") == 2 and drawn.count("grid-value") == 2 and "5 weights" in drawn


def test_heat_levels_at_their_edges_golden():
    assert heat_levels([0.0, 0.99, 1.0, 1.5, 15.9, 16.0, float("inf"), float("nan")], 1.0) == [0, 0, 1, 2, 6, 7, 7, 7]


def test_numbers_golden():
    cells = [
        (text.size(0), "0 bytes"), (text.size(99_949), "99.9 kB"), (text.size(100_000), "100.0 kB"),
        (text.size(16.06e9), "16.1 GB"), (text.size(None), "–"), (text.signed(-0.04), "0.0"),
        (text.signed(0.04), "0.0"),
        (text.signed(3.75), "+3.8"), (text.signed(-4.8), "−4.8"), (text.signed(None), "–"),
        (text.significant(0.0829), "0.0829"), (text.significant(1240.2), "1,240"), (text.significant(1e-9), "1.00e−09"),
        (text.percent(0.98), "98.0 %"), (text.times(1.7357), "1.74×"), (text.times(float("nan")), "–"),
        (text.prose("change -0.5 (lose<=2, w-8, 1.2 x float's)"), "change −0.5 (lose ≤ 2, w-8, 1.2 × float's)"),
        (text.clipped("one two three", 9), "one two …"), (text.clipped(None), ""),
    ]  # fmt: skip
    assert [(found.replace(text.NBSP, " "), want) for found, want in cells] == [(want, want) for _, want in cells]


PROBE = """<script>
document.title = document.documentElement.scrollWidth - window.innerWidth;
var form = document.getElementById("filter");
form.elements.%s.value = "%s";
form.dispatchEvent(new Event("input"));
</script></body>"""


def browse(source, folder, width):
    """The page after its scripts, and what the browser logged."""
    path = folder / f"probe{width}.html"
    path.write_text(source, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
             "--disable-component-update", "--disable-sync", f"--user-data-dir={folder / 'profile'}",
             f"--window-size={width},900", "--enable-logging=stderr"]  # fmt: skip
    done = subprocess.run(
        [CHROMIUM, *flags, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout, done.stderr


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize(
    ("width", "name", "value", "shown"),
    [
        (360, "kind", "lost", "1 of 1 shown; this page keeps the worst 1 of 248 that there are"),
        (1400, "scheme", "int2:g32:sf16", "8 of 8 shown; this page keeps the worst 8 of 407 that there are"),
        (720, "text", "b2 QUESTION", "2 of 10 shown; this page keeps the worst 10 of 421 that there are"),
    ],
)
def test_in_a_browser_external(result, tmp_path, width, name, value, shown):
    """From file://: no error in the log, nothing wider than the window, and the filter shows what was asked for."""
    page, log = browse(render(result).replace("</body>", PROBE % (name, value)), tmp_path, width)
    assert ":CONSOLE" not in log
    assert int(re.search(r"<title>(-?\d+)</title>", page)[1]) <= 0
    assert f"{shown}</output>" in page
    cards = re.findall(r"<article [^>]*>", page)
    assert sum("hidden" not in card for card in cards) == int(shown.split()[0])
