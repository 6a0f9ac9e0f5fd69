from __future__ import annotations

import pathlib

from dormouse.build import cache


def test_a_digest_stands_for_names_contents_and_facts(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a").write_text("1")
    first = cache.digest([str(tmp_path)], {"x": 1})
    assert cache.digest([str(tmp_path)], {"x": 1}) == first
    assert cache.digest([str(tmp_path)], {"x": 2}) != first
    (tmp_path / "a").write_text("2")
    assert cache.digest([str(tmp_path)], {"x": 1}) != first
    (tmp_path / "a").write_text("1")
    (tmp_path / "a").rename(tmp_path / "b")
    assert cache.digest([str(tmp_path)], {"x": 1}) != first


def test_an_answer_is_recalled_for_the_same_inputs_and_component(tmp_path: pathlib.Path) -> None:
    output = tmp_path / "x.wasm"
    assert cache.recall(str(output), "one") is None
    output.write_text("abc")
    cache.keep(str(output), "one", {"bytes": 3})
    assert cache.recall(str(output), "one") == {"bytes": 3}
    assert cache.recall(str(output), "two") is None
    output.write_text("abcd")
    assert cache.recall(str(output), "one") is None


def test_notes_that_make_no_sense_are_no_answer(tmp_path: pathlib.Path) -> None:
    (tmp_path / "x.wasm.json").write_text("[")
    assert cache.recall(str(tmp_path / "x.wasm"), "one") is None
    (tmp_path / "x.wasm.json").write_text("[]")
    assert cache.recall(str(tmp_path / "x.wasm"), "one") is None
