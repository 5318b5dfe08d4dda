"""Large infer requests are read by C where they are plain, and mean the same."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.open_inference import messages as infer_request
from service.api.open_inference.fields import MAX_FIELDS
from service.api.open_inference.messages import InferRequest, Signature, TensorSpec
from service.codecs import json_numbers
from service.codecs.json_numbers import parse_json
from service.errors import BadBodyError, ServiceError

MODEL = Signature(TensorSpec("images", "FP32", (-1, 3)), [TensorSpec("mu", "FP32", (-1, 3))])

INPUT = '{"name":"images","datatype":"%s","shape":%s,"data":%s}'
PLAIN = '{"inputs":[' + INPUT % ("FP32", "[2,3]", "[0, 0.25,1,\n1e-3,0.5,0.75]") + "]}"


def outcome(body: bytes) -> Any:
    """What a body is read as, or why it is not."""
    try:
        found = InferRequest.parse(body, None, MODEL)
    except ServiceError as error:
        return type(error), error.detail
    array = found.input.array
    numbers = array.astype(np.float32)
    return found.id, found.timeout_us, found.input.name, array.shape, numbers.tobytes()


def both(text: str) -> tuple[Any, Any]:
    """By C where it is plain, and by simdjson."""
    body = text.encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(infer_request, "INLINE_JSON_BYTES", 0)
        by_c = outcome(body)
    return by_c, outcome(body)


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        PLAIN.replace("FP32", "UINT8"),
        PLAIN.replace("FP32", "FP64"),
        PLAIN.replace("FP32", "FP64").replace("0.25", "0.1234567890123456789"),
        PLAIN.replace("[2,3]", "[6]"),
        PLAIN.replace("[2,3]", "[1,2,3]"),
        PLAIN.replace("[2,3]", "[1,1,1,2,3]"),
        PLAIN.replace("[2,3]", "[2,4]"),
        PLAIN.replace("[2,3]", "[1099511627776,1099511627776]"),
        PLAIN.replace("[2,3]", '"no shape"'),
        PLAIN.replace("0.25", "7"),
        PLAIN.replace("0.25", "-0.25"),
        PLAIN.replace("0.25", "null"),
        PLAIN.replace("0.25", '"]"'),
        PLAIN.replace("0.25", "[0.25]"),
        PLAIN.replace("0.25", "{}"),
        PLAIN.replace("1,\n", "1,\n,"),
        PLAIN.replace("0.75]", "0.75],[1]"),
        PLAIN.replace("0.75]", "0.75],"),
        PLAIN.replace("0.75]", "0.75"),
        PLAIN.replace("0.75]", '0.75] , "parameters": {"data": [1]}'),
        PLAIN.replace("0.75]", '0.75],"parameters":{"binary_data_size":24}'),
        PLAIN.replace('"data"', '"\\u0064ata"'),
        PLAIN.replace('"data"', '"x\\"data"'),
        PLAIN.replace('"data"', '"data" "data"'),
        PLAIN.replace('"data":', '"data":0,"data":'),
        PLAIN.replace('"data":', '"data":[1],"other":'),
        PLAIN.replace('"data":', '"data"\t:\r\n '),
        PLAIN.replace('{"inputs"', '{"id":"data","parameters":{"timeout":9},"inputs"'),
        PLAIN.replace('{"inputs"', '{"data":[0.5],"inputs"'),
        PLAIN.replace('"images"', '"data"'),
        PLAIN + " ]",
        PLAIN[:-1],
        '{"data":[1]}',
        '{"data":[1',
        '{"data"',
        "[" + PLAIN + "]",
    ],
)
def test_a_large_request_is_read_as_a_small_one(text: str) -> None:
    by_c, by_simdjson = both(text)
    assert by_c == by_simdjson


@given(
    st.sampled_from(["FP32", "FP64", "UINT8"]),
    st.lists(st.integers(1, 3), min_size=1, max_size=5),
    st.booleans(),
    st.data(),
)
def test_any_shape_flat_or_nested(
    datatype: str, shape: list[int], flat: bool, data: st.DataObject
) -> None:
    size = int(np.prod(shape))
    numbers = st.integers(0, 255) if datatype == "UINT8" else st.floats(0, 1)
    values = np.array(data.draw(st.lists(numbers, min_size=size, max_size=size)))
    listed = values.tolist() if flat else values.reshape(shape).tolist()
    text = '{"inputs":[' + INPUT % (datatype, json.dumps(shape), json.dumps(listed)) + "]}"
    by_c, by_simdjson = both(text)
    assert by_c == by_simdjson
    assert by_c[3] == tuple(shape)


@pytest.mark.skipif(not json_numbers.COMPILED, reason="service/codecs/_json.c is not compiled")
def test_simdjson_sees_no_numbers_of_a_large_plain_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps the interpreter from all others while it reads them."""
    parsed: list[bytes] = []

    def noted(text: bytes) -> Any:
        parsed.append(text)
        return parse_json(text)

    monkeypatch.setattr(infer_request, "parse_json", noted)
    data = ",".join(["0.125"] * 100_000)
    for numbers in (f"[{data}]", f"[[{data}]]"):
        body = '{"inputs":[' + INPUT % ("FP32", "[1,100000]", numbers) + "]}"
        assert outcome(body.encode())[3] == (1, 100_000)
    assert max(map(len, parsed)) < 200


@pytest.mark.parametrize("where", ["the body", "inputs[0]"])
def test_objects_have_a_limit_of_fields(where: str) -> None:
    """Looking at millions of them takes long."""
    document = json.loads(PLAIN) | {"parameters": {}}
    target = {"the body": document, "inputs[0]": document["inputs"][0]}[where]
    target |= {f"k{i}": i for i in range(MAX_FIELDS - len(target))}
    InferRequest.parse(json.dumps(document).encode(), None, MODEL)
    target |= {f"more{i}": i for i in range(100_000)}
    with pytest.raises(BadBodyError, match=rf"more than {MAX_FIELDS} fields") as refusal:
        InferRequest.parse(json.dumps(document).encode(), None, MODEL)
    assert where in refusal.value.detail
