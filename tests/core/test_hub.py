import shutil
import time
import uuid

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

from bedkd.core import hub
from bedkd.core.config import DataConfig
from bedkd.core.errors import BedkdError
from bedkd.data.splits import load_clean_data


@pytest.fixture
def repo_id() -> str:
    """An id that no earlier test has asked for: answers of the hub are remembered."""
    return f"owner/{uuid.uuid4().hex}"


@pytest.fixture
def no_mirror(monkeypatch):
    monkeypatch.delenv("BEDKD_MIRROR", raising=False)


@pytest.fixture
def mirror(monkeypatch, tmp_path):
    folder = tmp_path / "mirror"
    folder.mkdir()
    monkeypatch.setenv("BEDKD_MIRROR", str(folder))
    return folder


@pytest.fixture
def fake_hub(monkeypatch):
    """Set `cached` and `info` to what the hub client returns, or to the error that it raises."""

    class FakeHub:
        cached = LocalEntryNotFoundError("not in the cache")
        info = ConnectionError("no network")
        asked: list[str] = []

    def answer(name):
        def call(*arguments, **options):
            FakeHub.asked.append(name)
            value = getattr(FakeHub, name)
            if isinstance(value, Exception):
                raise value
            return value

        return call

    FakeHub.asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer("cached"))
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", answer("info"))
    return FakeHub


def put_model(folder, weights: bytes = b"weights", name: str = "model.safetensors"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / name).write_bytes(weights)
    return folder


# the order: local, mirror, cache, hub


def test_a_local_folder_comes_first(mirror, tmp_path, monkeypatch, repo_id, fake_hub):
    put_model(mirror / repo_id, b"of the mirror")
    put_model(tmp_path / "here" / repo_id, b"local")
    monkeypatch.chdir(tmp_path / "here")
    found = hub.locate(repo_id, "model")
    assert (found.origin, found.path) == ("local", repo_id)
    assert hub.locate(str(mirror / repo_id), "model").origin == "local"
    assert fake_hub.asked == []


def test_then_the_mirror(mirror, repo_id, fake_hub):
    put_model(mirror / repo_id)
    found = hub.locate(repo_id, "model")
    assert (found.origin, found.path) == ("mirror", str((mirror / repo_id).resolve()))
    assert found.revision == hub.digest_folder(mirror / repo_id)
    assert fake_hub.asked == []


def test_then_the_cache(mirror, repo_id, fake_hub):
    fake_hub.cached = "/cache/models--x/snapshots/abc123"
    assert hub.locate(repo_id, "model") == hub.Location(repo_id, "cache", "abc123")
    assert fake_hub.asked == ["cached"]


def test_then_the_hub(no_mirror, repo_id, fake_hub):
    class Info:
        sha = "f" * 40

    fake_hub.info = Info
    assert hub.locate(repo_id, "dataset") == hub.Location(repo_id, "hub", "f" * 40)
    assert fake_hub.asked == ["cached", "info"]


def test_the_mirror_may_be_named_from_home(monkeypatch, tmp_path, repo_id, fake_hub):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BEDKD_MIRROR", "~/mine")
    put_model(tmp_path / "mine" / repo_id)
    assert hub.locate(repo_id, "model").origin == "mirror"


@pytest.mark.parametrize("value", ["", None])
def test_no_mirror(monkeypatch, value):
    monkeypatch.delenv("BEDKD_MIRROR", raising=False)
    if value is not None:
        monkeypatch.setenv("BEDKD_MIRROR", value)
    assert hub.mirror_folder() is None


# what it says when nothing is found


def test_no_mirror_and_no_network(no_mirror, repo_id, fake_hub):
    started = time.monotonic()
    with pytest.raises(BedkdError, match="BEDKD_MIRROR") as caught:
        hub.locate(repo_id, "model")
    assert time.monotonic() - started < 10
    message = str(caught.value)
    assert repo_id in message and "not set" in message and "does not answer" in message
    assert "\n" not in message


def test_a_mirror_without_it_and_no_network(mirror, repo_id, fake_hub):
    with pytest.raises(BedkdError, match="does not answer") as caught:
        hub.locate(repo_id, "dataset")
    assert str(mirror) in str(caught.value) and f"{repo_id}/" in str(caught.value)


@pytest.mark.parametrize("name", ["sst2", "sst2-glue", "olid", "agnews", "some/thing"])
def test_real_data_without_mirror_and_network(no_mirror, fake_hub, name):
    started = time.monotonic()
    with pytest.raises(BedkdError, match="point BEDKD_MIRROR at a folder") as caught:
        load_clean_data(DataConfig(name=name), 0)
    assert time.monotonic() - started < 10
    assert "\n" not in str(caught.value)


def test_a_failure_is_not_remembered(no_mirror, repo_id, fake_hub):
    with pytest.raises(BedkdError):
        hub.locate(repo_id, "model")
    fake_hub.cached = "/cache/snapshots/abc"
    assert hub.locate(repo_id, "model").revision == "abc"


def test_it_is_not_on_the_hub(no_mirror, repo_id, fake_hub):
    fake_hub.info = RepositoryNotFoundError.__new__(RepositoryNotFoundError)
    with pytest.raises(BedkdError, match=f"model '{repo_id}' is not in .* and not on the hub"):
        hub.locate(repo_id, "model")


@pytest.mark.parametrize("name", ["not an id!", "/no/such/folder", "a/b/c"])
def test_neither_a_folder_nor_an_id(no_mirror, name):
    with pytest.raises(BedkdError, match="neither a local folder nor a hub id") as caught:
        hub.locate(name, "dataset")
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("is_file", [False, True])
def test_a_mirror_that_points_nowhere(monkeypatch, tmp_path, fake_hub, is_file):
    path = tmp_path / "nowhere"
    if is_file:
        path.write_text("x")
    monkeypatch.setenv("BEDKD_MIRROR", str(path))
    for call in (hub.mirror_folder, lambda: hub.locate("owner/name", "model")):
        with pytest.raises(BedkdError, match="BEDKD_MIRROR is .*not a folder") as caught:
            call()
        assert str(path) in str(caught.value)
    assert fake_hub.asked == []


# revisions


def test_a_copy_has_the_same_revision(tmp_path):
    one = put_model(tmp_path / "one")
    shutil.copytree(one, tmp_path / "two")
    assert hub.digest_folder(one) == hub.digest_folder(tmp_path / "two")


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "pytorch_model.bin", "train.parquet", "data/train.csv", "train.csv.gz"],
)
def test_other_bytes_are_another_revision(tmp_path, name):
    (tmp_path / "repo/data").mkdir(parents=True)
    file = tmp_path / "repo" / name
    file.write_bytes(b"one")
    before = hub.digest_folder(tmp_path / "repo")
    file.write_bytes(b"other")
    after = hub.digest_folder(tmp_path / "repo")
    assert before != after
    file.write_bytes(b"one")
    assert hub.digest_folder(tmp_path / "repo") == before


def test_another_name_or_one_file_more_is_another_revision(tmp_path):
    folder = put_model(tmp_path / "repo")
    seen = {hub.digest_folder(folder)}
    (folder / "vocab.txt").write_text("the")
    seen.add(hub.digest_folder(folder))
    (folder / "vocab.txt").rename(folder / "words.txt")
    seen.add(hub.digest_folder(folder))
    assert len(seen) == 3


@pytest.mark.parametrize("name", [*hub.TINY_MODELS, hub.TINY_LM])
def test_a_model_from_scratch_is_looked_for_nowhere(no_mirror, fake_hub, name):
    assert hub.model_revision(name) == "scratch" and fake_hub.asked == []


@pytest.mark.parametrize("name", ["tiny-gpt", "tiny-bert-huge"])
def test_an_unknown_tiny_model_is_asked_for_as_any_other(no_mirror, fake_hub, name):
    with pytest.raises(BedkdError, match=f"model '{name}' is not in BEDKD_MIRROR"):
        hub.model_revision(name)


@pytest.mark.mirror
@pytest.mark.parametrize(
    "repo_id, kind",
    [
        ("SetFit/sst2", "dataset"),
        ("cardiffnlp/tweet_eval", "dataset"),
        ("fancyzhx/ag_news", "dataset"),
        ("paraphrases/scpn/sst2", "dataset"),
        ("sentence-transformers/all-MiniLM-L6-v2", "model"),
    ],
)
def test_the_real_mirror(repo_id, kind, fake_hub):
    found = hub.locate(repo_id, kind)
    assert found.origin == "mirror" and len(found.revision) == 16
    assert fake_hub.asked == []
