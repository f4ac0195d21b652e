"""Small files of a workdir: whatever they hold, the answer is a message or the file is made again."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import default
from symm_jax import errors
from symm_jax.run import best, config_json, paths, workdir

DATA = {"train": "1 images", "test": "2 images"}
CHOICE = {"step": 3, "chosen_by": "test", "metric": "recall@1", "value": 0.5, "meaning": "best on the test classes"}
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*DATA, *CHOICE]), inner, max_size=5),
    max_leaves=6,
)


def altered(value):
    """Bytes of any kind, any JSON, and the JSON text of `value` cut or with another value."""
    text = json.dumps(value).encode()
    return st.one_of(
        st.binary(max_size=20),
        ANY_JSON.map(lambda x: json.dumps(x).encode()),
        st.integers(0, len(text)).map(lambda n: text[:n]),
        st.tuples(st.sampled_from([*value]), ANY_JSON).map(lambda change: json.dumps(value | dict([change])).encode()),
        st.just(b"[" * 10**5),
    )


def a_config(**fields):
    return config_json.to_dict(default.get_config()) | {"seed": 0, "num_steps": 3} | fields


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    paths.checkpoint(folder, 3).mkdir(parents=True)
    paths.best(folder).mkdir()
    paths.config(folder).write_text(json.dumps(a_config()))
    return folder


@settings(max_examples=40, deadline=None)
@given(altered(DATA))
def test_any_data_json_is_read_or_refused_with_a_message(run, content):
    paths.data(run).write_bytes(content)
    try:
        workdir.check_data(run, DATA, note=False)
    except errors.InputError as error:
        assert "data.json" in str(error) and "move" in str(error)
    else:
        noted = json.loads(content)
        assert all(noted.get(what, fingerprint) == fingerprint for what, fingerprint in DATA.items())


@settings(max_examples=40, deadline=None)
@given(altered(CHOICE))
def test_any_choice_json_is_read_or_refused_with_a_message(run, content):
    paths.choice(run).write_bytes(content)
    for read in (best.read, best.require_intact):
        try:
            choice = read(run)
        except errors.InputError as error:
            assert str(paths.best(run)) in str(error) and "evaluate again" in str(error)
        else:
            assert choice is not None and isinstance(choice["step"], int) and isinstance(choice["value"], float)
    best.forget(run, 10**9)
    assert paths.best(run).exists()


@pytest.mark.parametrize("content", [b"", b"3", b"x\n", b"\xff\n", b"2\n", b"[3]\n"])
def test_a_damaged_mark_of_the_end_is_replaced_by_what_the_checkpoints_say(run, content, capsys):
    paths.finished(run).write_bytes(content)
    assert workdir.finished(run) == 3
    assert (
        "finished is damaged; by config.json and the checkpoints, training has ended at step 3"
        in capsys.readouterr().err
    )
    paths.config(run).write_text(json.dumps(a_config(num_steps=4)))
    assert workdir.finished(run) is None
    paths.config(run).write_text(json.dumps(a_config()))
    workdir.mark_finished(run, 3)
    assert workdir.finished(run) == 3


def test_no_message_advises_to_delete_checkpoints(run):
    with pytest.raises(errors.InputError) as said:
        workdir.check_config(run, a_config(seed=1))
    assert "seed: 1, there 0" in str(said.value) and "delete" not in str(said.value)
