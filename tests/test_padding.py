"""Padding: what in a batch says so, batches cut behind their longest row, and the line that pads."""

import ast
from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch
from perfdoc_probes.padding import Padding, pads_to_a_length
from perfdoc_probes.trimmed_padding import TrimmedPadding
from perfdoc_probes.whole_batches import WholeBatches
from test_rules import findings, make
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from perfdoc.core.measurement import Measurement
from perfdoc.inject.feed.handle import Handle
from perfdoc.inject.feed.padding import padded_in, trailing_id, trimmed
from perfdoc.inject.observe import user_source

LENGTHS = [3, 5, 2, 4]
IDS = torch.tensor([[7 + column if column < n else 0 for column in range(12)] for n in LENGTHS])
MASK = (IDS != 0).long()
SEEN = (4, 12, sum(LENGTHS), 5)
Pair = namedtuple("Pair", "ids mask")


def facts(batch, pad=None):
    return [(one.rows, one.length, one.used, one.longest) for one in padded_in(batch, pad)]


@pytest.mark.parametrize("batch", [
    {"input_ids": IDS, "attention_mask": MASK, "labels": torch.zeros(4)},
    {"input_ids": IDS, "attention_mask": MASK.bool()},
    {"x": IDS, "key_padding_mask": IDS == 0},
    (IDS, MASK, torch.arange(4)),
    [(IDS, IDS == 0), torch.arange(4)],
    Pair(torch.randn(4, 12, 3) * MASK[:, :, None], MASK.float()),
])
def test_a_mask_says_what_is_padding(batch):
    """By its name or by what it does; ones or zeros for tokens; in dicts, tuples, and what these hold."""
    assert facts(batch) == [SEEN]


@pytest.mark.parametrize("batch", [
    {"input_ids": IDS + 1, "labels": torch.eye(4, 12).long()},
    (torch.arange(48).view(4, 12), MASK),
    {"input_ids": torch.arange(48).view(4, 12), "global_attention_mask": (torch.arange(12) < 1).long().expand(4, 12)},
    (torch.randn(4, 3, 8, 8), torch.arange(4)),
    (IDS[:, :2], MASK[:, :2]),
    "text",
])
def test_what_is_no_mask_is_not_taken_for_one(batch):
    """Multi-hot labels, features of zeros and ones, the tokens that attend to everything, pictures."""
    assert facts(batch) == []


def test_a_full_batch_has_no_padding():
    """A mask of ones alone counts: a batch of it has no padding."""
    assert facts({"input_ids": IDS[:, :2].repeat(1, 3) + 1, "attention_mask": torch.ones(4, 6)}) == [(4, 6, 24, 6)]


def test_ids_that_end_in_one_say_it_where_no_mask_does():
    """Half of the rows or more end in the same id: up to the last other one they are used."""
    assert trailing_id((IDS, torch.arange(4))) == 0
    assert facts((IDS, torch.arange(4)), pad=0) == [SEEN]
    assert trailing_id((torch.arange(48).view(4, 12), torch.arange(4))) is None


def test_every_tensor_of_the_padded_length_is_cut():
    """Ids, mask, types and token labels end with the longest row; others are passed on, and the user's batch is not touched."""
    batch = {"input_ids": IDS, "attention_mask": MASK, "labels": IDS.clone(), "row": torch.arange(4), "names": ["a"] * 4}
    cut = trimmed(batch)
    for name in ("input_ids", "attention_mask", "labels"):
        assert torch.equal(cut[name], batch[name][:, :5])
        assert cut[name].is_contiguous()
    assert cut["row"] is batch["row"]
    assert cut["names"] == ["a"] * 4
    assert batch["input_ids"].shape == (4, 12)
    pair = trimmed(Pair(IDS, MASK))
    assert type(pair) is Pair
    assert pair.ids.shape == (4, 5)


def test_a_batch_encoding_stays_one():
    """The mapping that tokenizers return is cut too, attributes and all."""
    transformers = pytest.importorskip("transformers")
    batch = transformers.BatchEncoding({"input_ids": IDS, "attention_mask": MASK})
    cut = trimmed(batch)
    assert type(cut) is type(batch)
    assert cut.input_ids.shape == (4, 5)
    assert batch.input_ids.shape == (4, 12)


class Texts(Dataset):
    """Short texts, filled up to 32."""

    def __init__(self, left=False, mask=True):
        self.left, self.mask = left, mask

    def __len__(self):
        return 40

    def __getitem__(self, index):
        ids = torch.arange(3, 6 + index % 4)
        fill = 32 - len(ids)
        ids = nn.functional.pad(ids, (fill, 0) if self.left else (0, fill))
        return {"input_ids": ids, **({"attention_mask": (ids != 0).long()} if self.mask else {})}


class Model(nn.Module):
    """A transformer that ignores what the mask says is padding."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(20, 8, padding_idx=0)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)

    def forward(self, input_ids, attention_mask):
        hidden = self.layer(self.tokens(input_ids), src_key_padding_mask=attention_mask == 0)
        return (hidden * attention_mask[..., None]).sum(1) / attention_mask.sum(1, keepdim=True)


class Loop:
    """A held loader, and a model."""

    ranks = 1

    def __init__(self, dataset, **options):
        loader = DataLoader(dataset, batch_size=4, **options)
        handle = Handle(0, loader, "train.py:1")
        handle._iterator = lambda: None
        handle.hold()
        self.loaders = [handle]
        self.models = [Model()]


@pytest.mark.parametrize("workers", [0, 1])
def test_the_model_computes_the_same_of_cut_batches(workers):
    """The outcome for every row is that of the padded batch, up to rounding; after restoring batches are as before."""
    loop, treatment = Loop(Texts(), num_workers=workers), TrimmedPadding()
    handle, (model,) = loop.loaders[0], loop.models
    offer = treatment.offer(loop)
    assert offer.status == "offered"
    before = handle.source_key
    own = next(iter(handle.loader))
    try:
        treatment.apply(loop, offer.levels[0].name)
        cut = handle.fetch()
        assert cut["input_ids"].shape == (4, 6)
        assert torch.allclose(model(**cut), model(**own), atol=1e-5)
        treatment.restore(loop)
        assert handle.source_key == before
        assert handle.fetch()["input_ids"].shape == (4, 32)
    finally:
        handle.close()


def test_batches_that_are_served_again_are_cut_too():
    """Where numbers are compared, the batches were drawn before the change: under it they are cut, after it they are whole."""
    loop, treatment = Loop(Texts()), TrimmedPadding()
    (handle,) = loop.loaders
    level = treatment.offer(loop).levels[0].name
    handle.replay([handle.draw(), handle.draw()])
    assert handle.fetch()["input_ids"].shape == (4, 32)
    treatment.apply(loop, level)
    assert handle.fetch()["input_ids"].shape == (4, 6)
    treatment.restore(loop)
    assert handle.fetch()["input_ids"].shape == (4, 32)


@pytest.mark.parametrize(("dataset", "status", "words"), [
    (Texts(mask=False), "offered", ""),
    (Texts(left=True), "not applicable", "padded on the left"),
    ([torch.randn(3, 8, 8) for _ in range(8)], "not applicable", "nothing in a batch"),
    ([{"attention_mask": (torch.arange(8) < 5).long(), "pairs": torch.zeros(8, 8)} for _ in range(8)], "not applicable",
     "pairs has the padded length in another dimension"),
])
def test_where_it_is_offered(dataset, status, words):
    """Rows padded on the right; not where cutting would shift positions, or where it is not clear what to cut."""
    offer = TrimmedPadding().offer(Loop(dataset))
    assert (offer.status, words in offer.reason) == (status, True)


def test_pictures_are_not_looked_at_for_long():
    """Two samples, and one batch, that hold no row of tokens are enough."""
    made = []

    class Noting(list):
        def __getitem__(self, index):
            made.append(index)
            return super().__getitem__(index)

    loop = Loop(Noting(torch.randn(64, 3, 8, 8)))
    TrimmedPadding().offer(loop)
    assert len(made) == 2
    Padding().measure(loop, {})
    assert len(made) == 2 + 4


def test_batches_handed_over_whole_are_cut_too():
    """Tensors in memory: asked for at once, and cut behind the longest row."""
    data = [Texts()[index] for index in range(40)]
    ids, mask = (torch.stack([row[name] for row in data]) for name in ("input_ids", "attention_mask"))
    loop = Loop(TensorDataset(ids, mask))
    for treatment in (TrimmedPadding(), WholeBatches()):
        treatment.apply(loop, treatment.offer(loop).levels[0].name)
    assert [tuple(part.shape) for part in loop.loaders[0].fetch()] == [(4, 6), (4, 6)]


def test_an_id_that_no_embedding_calls_padding_is_told_and_not_cut():
    """Rows that end in one id may be meant so: how much that is, is told, but nothing is cut."""
    loop = Loop(Texts(mask=False))
    loop.models[0].tokens.padding_idx = None
    assert TrimmedPadding().offer(loop).status == "not applicable"
    share = Padding().measure(loop, {})[0]
    assert share.mean == pytest.approx(1 - 4.5 / 32)
    assert share.conditions["by"] == "input_ids, whose rows end in 0"


def test_the_probe_tells_shares():
    """Of 32 tokens in a row 3 to 6 are used; cut to 6 a quarter would be left, and the longest row has 6."""
    share, left, longest = Padding().measure(Loop(Texts()), {})
    assert share.mean == pytest.approx(1 - 4.5 / 32)
    assert left.mean == pytest.approx(1 - 4.5 / 6)
    assert set(longest.samples) == {6.0}
    assert (share.conditions["by"], share.conditions["length"]) == ("attention_mask", 32)


def test_the_probe_says_why_it_has_nothing():
    """Batches of pictures, and a loop without a loader."""
    assert "nothing in a batch" in Padding().measure(Loop([torch.randn(3, 8, 8) for _ in range(8)]), {})[0].reason
    assert "no DataLoader" in Padding().measure(SimpleNamespace(loaders=[], models=[]), {})[0].reason


@pytest.mark.parametrize("line", [
    'tokenizer(texts, padding="max_length", truncation=True)', "tokenizer.encode_plus(t, pad_to_max_length=True)",
    "tokenizer.enable_padding(length=256)", "ids = ids + [0] * (256 - len(ids))", "x = F.pad(x, (0, n - x.shape[0]))",
    'options = {"padding": "max_length"}', "ids += (n - len(ids)) * [pad]", "row[:len(ids)] = ids", "rows[i, :len(x)] = x",
    "missing = n - len(ids)\nids = ids + [0] * missing", "left = max(0, n - x.size(0))\nx = F.pad(x, (0, left))",
])
def test_the_line_that_pads_is_found(line):
    """The ways in which people fill rows up to one length."""
    assert list(pads_to_a_length(ast.parse(line)))


@pytest.mark.parametrize("line", [
    "tokenizer(texts, padding=True)", "nn.Conv2d(3, 8, 3, padding=1)", "F.pad(x, (1, 1, 1, 1))", "row = [0] * n",
    "rest = total - len(done)", "rest = n - len(x)\nfor _ in range(rest): pass", "x[:5] = y",
    "pad_sequence(rows, batch_first=True)",
])
def test_other_lines_are_not_taken_for_it(line):
    """Padding of convolutions and of whole batches, and lists of zeros."""
    assert not list(pads_to_a_length(ast.parse(line)))


def test_source_is_searched_in_the_users_files_alone(tmp_path, monkeypatch):
    """Relative to the working directory, the main script first; what is no Python any more is passed over."""
    (tmp_path / "b.py").write_text("import c\nx = tokenizer(t, padding='max_length')\n")
    (tmp_path / "a.py").write_text("tokenizer(\n  t, padding='max_length')\n")
    (tmp_path / "broken.py").write_text("def (")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(user_source, "user_files", lambda: [str(tmp_path / name) for name in ("a.py", "b.py", "broken.py")])
    monkeypatch.setattr("sys.modules", {"__main__": SimpleNamespace(__file__="b.py")})
    assert user_source.search(pads_to_a_length) == ["b.py:2", "a.py:1"]


def padding(share, left, **conditions):
    seen = {"by": "attention_mask", "length": 256, "site": "train.py:51", **conditions}
    return [Measurement("padding.share", "1", (share,), seen), Measurement("padding.left", "1", (left,), seen),
            Measurement("padding.longest", "count", (118.0,), seen)]


def test_the_share_is_told_at_the_line_with_what_it_costs():
    """Tried and faster: the line that pads, how much is padding, and the gain that was measured."""
    found = findings(make({"trimmed_padding=longest": 2.5}, measurements=padding(0.8, 0.58)))["PD120"]
    assert found.verdict == "helps"
    assert found.where == "train.py:51"
    assert found.title.startswith("80% of the tokens in a batch are padding (rows of 256, the longest of a batch has 118")
    assert "the step is 2.5" in found.title
    assert any("58% of the tokens are still padding" in line for line in found.evidence)
    assert any("DataCollatorWithPadding" in line for line in found.evidence)


def test_the_share_is_told_where_nothing_was_tried():
    """With a bound, and without a verdict; a small share is not worth a word."""
    found = findings(make(measurements=padding(0.8, 0.75)))["PD120"]
    assert (found.verdict, found.where) == ("undecided", "train.py:51")
    assert "at most 5x faster without" in found.title
    phases = [Measurement("step.forward", "s", (0.02,)), Measurement("step.backward", "s", (0.03,))]
    half = findings(make(measurements=[*padding(0.8, 0.75), *phases]))["PD120"]
    assert "at most 1.7x faster without" in half.title
    assert half.seconds_saved_a_step == pytest.approx(0.04, rel=0.01)
    guessed = findings(make(measurements=padding(0.8, 0.75, by="x, whose rows end in 0")))["PD120"]
    assert "80% of the tokens in a batch are as it seems padding" in guessed.title
    assert "PD120" not in findings(make(measurements=padding(0.15, 0.1)))


def test_batches_that_end_with_their_longest_row_want_rows_of_one_length():
    """Where cutting would bring nothing, putting like rows together is what helps."""
    found = findings(make(measurements=padding(0.4, 0.4)))["PD120"]
    assert "rows of about one length" in found.fix
