"""The kit beside other runtimes: all are timed on the same network, and restore the same."""

import pandas as pd
import pytest

from glowlib import KitError
from glowlib.__main__ import main
from glowlib.integrations import engines

ENGINES = [("kit", "optimised")] + [(e, form) for form in ("plain", "optimised") for e in ("onnxruntime", "openvino")]


def test_every_engine_is_timed_in_every_round(onnxruntime, openvino, tmp_path, capsys):
    arguments = ["engines", "--size", "small", "--models", "gcunet-small", "--rounds", "2", "--out", str(tmp_path)]
    main(arguments)
    table = pd.read_csv(tmp_path / "engines_cpu.csv")
    assert list(table.columns) == engines.COLUMNS
    assert [*zip(table["engine"], table["form"], strict=True)] == 2 * ENGINES
    assert list(table["round"]) == 5 * [0] + 5 * [1]
    assert (table["seconds"] > 0).all()
    assert "| gcunet-small |" in capsys.readouterr().out
    written = {path.name: path.stat().st_mtime for path in (tmp_path / "exported").iterdir()}
    main(arguments)  # the files are there
    assert written == {path.name: path.stat().st_mtime for path in (tmp_path / "exported").iterdir()}


def test_an_engine_that_restores_otherwise_is_not_timed(monkeypatch, tmp_path):
    monkeypatch.setattr(engines, "export", lambda *_, **__: None)
    monkeypatch.setattr(engines, "load_exported", lambda path, backend: lambda image: image + 1)
    with pytest.raises(KitError, match=r"onnxruntime restores otherwise than gcunet-small \(plain form\)"):
        engines.prepare("gcunet-small", "small", tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--models", "unet"], "unknown models unet; known are: sunet-paper"), (["--rounds", "0"], "must be at least 1")],
)
def test_mistakes_are_named(options, said, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        main(["engines", *options, "--out", str(tmp_path)])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
