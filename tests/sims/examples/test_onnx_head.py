"""The head of a network in ONNX format is its last linear layer, and the features are what that layer is given."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from sims.examples import text_recognition
from sims.examples.onnx_head import onnx_head

RNG = np.random.default_rng(0)
A, W, b = (RNG.standard_normal(shape).astype(np.float32) for shape in ((4, 5), (3, 5), (3,)))
LAST = {
    "MatMul and Add": [helper.make_node("MatMul", ["h", "Wt"], ["p"]), helper.make_node("Add", ["b", "p"], ["out"])],
    "MatMul": [helper.make_node("MatMul", ["h", "Wt"], ["out"])],
    "Gemm": [helper.make_node("Gemm", ["h", "Wt", "b"], ["out"])],
    "Gemm transposed": [helper.make_node("Gemm", ["h", "W", "b"], ["out"], transB=1)],
}


def saved(path: Path, last: list[Any], constant: bool) -> Path:
    """x (n, 4) -> h = relu(x A) -> the last layer; its weights as initializers, or as nodes of their own."""
    arrays = {"A": A, "W": W, "Wt": W.T.copy(), "b": b}
    tensors = [numpy_helper.from_array(value, name) for name, value in arrays.items()]
    nodes = [helper.make_node("MatMul", ["x", "A"], ["a"]), helper.make_node("Relu", ["a"], ["h"]), *last]
    if constant:
        nodes = [*(helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in tensors), *nodes]
    shaped = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", 4), ("out", 3))]
    graph = helper.make_graph(nodes, "net", shaped[:1], shaped[1:], [] if constant else tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.mark.parametrize("constant", [False, True], ids=["initializers", "constants"])
@pytest.mark.parametrize("last", list(LAST))
def test_the_head_and_its_features_give_what_the_network_gives(last: str, constant: bool, tmp_path: Path) -> None:
    head = onnx_head(saved(tmp_path / "net.onnx", LAST[last], constant))
    x = RNG.standard_normal((6, 4)).astype(np.float32)
    out, h = map(np.asarray, onnxruntime.InferenceSession(head.model).run(["out", head.features_name], {"x": x}))
    np.testing.assert_allclose(h, np.maximum(x @ A, 0), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(head.W, W)
    np.testing.assert_array_equal(head.b, np.zeros(3) if last == "MatMul" else b)
    np.testing.assert_allclose(h @ head.W.T + head.b, out, rtol=1e-5, atol=1e-6)


def test_a_network_without_linear_layer_is_refused(tmp_path: Path) -> None:
    shaped = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "out")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["out"])], "net", shaped[:1], shaped[1:])
    onnx.save(helper.make_model(graph), tmp_path / "net.onnx")
    with pytest.raises(ValueError, match="no linear layer"):
        onnx_head(tmp_path / "net.onnx")


@pytest.mark.slow
def test_the_text_recogniser_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Needs the package rapidocr-onnxruntime, of which the model alone is read."""
    package = importlib.util.find_spec("rapidocr_onnxruntime")
    if package is None or package.origin is None:
        pytest.skip("rapidocr-onnxruntime is not installed (80 MB with OpenCV)")
    model = Path(package.origin).parent / "models" / "ch_PP-OCRv4_rec_infer.onnx"
    assert text_recognition.main([str(model), "--out", str(tmp_path), "--lines", "50"]) == 0
    told = capsys.readouterr().out
    assert "6625 classes, P = 120" in told
    assert "read without error" in told
    assert (tmp_path / "text-recognition.png").stat().st_size > 10_000


def test_the_measures_of_the_recogniser_are_text_or_json_or_neither(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, labels = RNG.standard_normal((9, 3)).astype(np.float32), RNG.integers(1, 5, 60)
    rows[2] = 1.0001 * rows[1]  # A and B
    features = (rows[labels] + 0.1 * RNG.standard_normal((60, 3))).astype(np.float32)
    head = SimpleNamespace(W=rows, b=np.zeros(9, np.float32))
    for name, value in {"onnx_head": head, "session_of": None, "characters": ["", *"ABCDEFG", " "]}.items():
        monkeypatch.setattr(text_recognition, name, lambda _, value=value: value)
    monkeypatch.setattr(text_recognition, "features_of_lines", lambda *_: (features, labels, 0.5))
    call = ["net.onnx", "--out", str(tmp_path), "--lines", "7"]
    assert text_recognition.main([*call, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert (tmp_path / "text-recognition.png").stat().st_size > 10_000
    assert text_recognition.main([*call, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["classifier"]["C"], answer["classifier"]["P"], answer["classifier"]["coincident_letters"]) == (9, 3, 2)
    assert answer["classifier"]["nearest_letters"][0] == ["A", "B", pytest.approx(1)]
    assert answer["features"]["shuffled"]["nc1"] > answer["features"]["labels"]["nc1"] > 0
    assert text_recognition.main(call) == 0
    told = capsys.readouterr().out
    assert "9 classes, P = 3: " in told
    assert "nearest letters and digits: A B 1.00, " in told
    assert "50.0% of 7 lines are read without error: 60 features of 4 characters" in told
    assert f"nc1              {answer['features']['labels']['nc1']:8.3f} " in told
