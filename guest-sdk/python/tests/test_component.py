"""What componentize-py says when a predictor can't be imported, as its author reads it."""

from dormouse.build.component import _failure

TRACE = """Traceback (most recent call last):
  File "/venv/bin/componentize-py", line 8, in <module>
    sys.exit(script())
AssertionError: Traceback (most recent call last):
  File "/0/dormouse_app.py", line 5, in <module>
    from dormouse.guest.app import WitWorld as WitWorld
{error}

Caused by:
    wasm trap
"""


def test_what_is_wrong_with_a_signature_is_told_without_a_traceback() -> None:
    failure = _failure(TRACE.format(error="dormouse.signature.SignatureError: input 'x' needs a type hint"))
    assert failure.message == "the predictor can't be served: input 'x' needs a type hint"
    assert failure.advice is None


def test_an_exception_of_the_authors_code_keeps_its_traceback() -> None:
    failure = _failure(TRACE.format(error="ZeroDivisionError: division by zero"))
    assert failure.message == "the predictor could not be imported: ZeroDivisionError: division by zero"
    assert failure.advice is not None
    assert "dormouse_app.py" in failure.advice
    assert "wasm trap" not in failure.advice
