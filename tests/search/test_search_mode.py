"""--mode=search: the table, lines of JSON, marks by thresholds, and mistakes."""

import json

import numpy as np
import photographs
import pytest
from test_exact import norm, write

from symm_jax.app import search as mode
from symm_jax.app.use_flags import Use
from symm_jax.data import arrays
from symm_jax.errors import InputError
from symm_jax.search import build, decoding, embedder, index, thresholds


class Network:
    """Embeds a picture as the signs and sizes of its corner pixels, without a network."""

    dim = 12

    def decode(self, sources, count):
        return decoding.decode_ahead(sources, count, arrays.Options(2, orient=True), ahead=4)

    def embed_squares(self, squares, count, total):
        for square in squares:
            yield norm(square.reshape(1, 12).astype(np.float32) - 100.5)


@pytest.fixture
def photos(tmp_path):
    for number, label in enumerate(("apple", "lemon", "pear")):
        photographs.photograph(tmp_path / f"photos/{label}/{number}.jpg", 80 * number + 20, (30, 40))
    return tmp_path / "photos"


@pytest.fixture
def folder(tmp_path, photos, monkeypatch):
    """An index of the three photographs."""
    network, files = Network(), sorted(photos.rglob("*.jpg"))
    decoded = network.decode([decoding.Source(str(path), path) for path in files], 3)
    embeddings = np.concatenate([*network.embed_squares((d.pixels for d in decoded), 3, 3)])
    monkeypatch.setattr(mode.embedder, "load_for", lambda opened, workdir: network)
    rows = [index.Row(str(path.relative_to(photos)), 1, 1, "", path.parent.name) for path in files]
    about = {"images": str(photos), "dim": 12, "dtype": "float32", "weights": {"sha256": "w"}}
    (tmp_path / "index").mkdir()
    index.write(tmp_path / "index", about, rows, [embeddings])
    return tmp_path / "index"


@pytest.fixture
def threshold(monkeypatch):
    """A function that sets the threshold of every index."""

    def place(value):
        found = thresholds.Thresholds({"0.01": value, "0.001": value})
        monkeypatch.setattr(thresholds, "read", lambda opened: found)

    return place


def test_lines_of_json_and_a_damaged_query(folder, photos, tmp_path, capsys):
    photographs.photograph(tmp_path / "queries/b.jpg", 20, (30, 40))
    (tmp_path / "queries/a.jpg").write_bytes(b"cut")
    faults = mode.search(Use(index=folder, query=tmp_path / "queries", k=2, json=True))
    assert len(faults) == 1 and "a.jpg" in faults[0]
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["query"] for line in lines] == [str(tmp_path / "queries/b.jpg")]
    first, second = lines[0]["results"]
    assert first["path"] == str(photos / "apple/0.jpg") and first["class"] == "apple"
    assert first["similarity"] == pytest.approx(1, abs=1e-6) and second["similarity"] < first["similarity"]


def test_a_table_with_marks(folder, photos, threshold, capsys):
    threshold(0.999)
    assert mode.search(Use(index=folder, query=photos / "pear/2.jpg", k=3)) == []
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"index     {folder}: 3 pictures of {photos}"
    assert lines[2:4] == [f"query     {photos / 'pear/2.jpg'}", "          similarity  class  picture"]
    assert lines[4] == "       1      1.0000  pear   pear/2.jpg"
    assert lines[6].endswith("  (no match)")
    mode.search(Use(index=folder, query=photos / "pear/2.jpg", k=3, json=True))
    results = json.loads(capsys.readouterr().out)["results"]
    assert (results[0]["match"], results[2]["match"]) == (True, False)
    mode.search(Use(index=folder, query=photos / "pear/2.jpg", json=True))
    assert len(json.loads(capsys.readouterr().out)["results"]) == 3  # all there are, where --k is not given
    threshold(1.5)
    mode.search(Use(index=folder, query=photos / "pear/2.jpg", k=1))
    assert "no match: every similarity is below the threshold 1.5" in capsys.readouterr().out


def test_by_usearch_the_notes_go_to_stderr(folder, photos, capsys):
    pytest.importorskip("usearch")
    given = Use(index=folder, query=photos / "lemon", k=3, json=True, index_kind="usearch")
    mode.search(given)
    out, err = capsys.readouterr()
    assert json.loads(out)["results"][0]["path"] == str(photos / "lemon/1.jpg")
    assert "made; recall@2 1.0000" in err
    mode.search(Use(index=folder, index_kind="usearch"))  # without a query it is only made
    assert "read; recall@2 1.0000" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 4}, "k: .*has 3 pictures, got 4"),
        ({"query": "absent.jpg"}, "query: .*absent.jpg does not exist"),
        ({"query": "index"}, "query: .*index holds no pictures"),
        ({"index": "photos"}, "index: .*photos is not an index"),
    ],
)
def test_mistakes(folder, photos, tmp_path, change, message):
    given = {"index": folder, "query": photos, "k": 1}
    given |= {key: tmp_path / x if isinstance(x, str) else x for key, x in change.items()}
    with pytest.raises(InputError, match=message):
        mode.search(Use(**given))


@pytest.mark.parametrize(
    ("weights", "workdir", "argument", "message"),
    [
        ({"pretrained": "convnet"}, "run", "workdir", "Leave --workdir out"),
        ({"workdir": "/gone", "step": 1}, None, "index", "names the run /gone, which is not there"),
    ],
)
def test_a_network_that_is_not_where_the_index_says(tmp_path, weights, workdir, argument, message):
    index.write(tmp_path, {"dim": 2, "dtype": "float32", "images": "/x", "weights": weights, "network": {}}, [], [])
    with pytest.raises(InputError, match=message) as error:
        embedder.load_for(index.Index(tmp_path), workdir)
    assert error.value.argument == argument


def test_a_folder_without_rights_is_a_mistake_in_the_index(folder, monkeypatch):
    def exists(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(index.Path, "exists", exists)
    with pytest.raises(InputError, match="index: .*cannot be read .*permissions"):
        index.Index(folder)


def test_what_other_modes_keep_in_an_index_folder_is_not_foreign(tmp_path):
    for name in index.DERIVED:
        (tmp_path / "index").mkdir(exist_ok=True)
        (tmp_path / "index" / name).touch()
    build._require_place(tmp_path / "photos", tmp_path / "index")
    (tmp_path / "index/mine.txt").touch()
    with pytest.raises(InputError, match="holds other files, such as mine.txt"):
        build._require_place(tmp_path / "photos", tmp_path / "index")


def test_from_the_command_line_without_a_config(tmp_path, launch):
    write(tmp_path / "index", np.eye(3, dtype=np.float16))
    found = launch("--mode=search", f"--index={tmp_path / 'index'}", "--query=a.jpg", "--k=4", devices=1)
    assert found.returncode == 2
    assert found.stderr.endswith(f"error: --k: {tmp_path / 'index'} has 3 pictures, got 4.\n")
