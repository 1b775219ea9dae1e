"""The program in an answer, in the ways in which models write it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.rewards import fences, named
from model.tokenizer import reasoned

BODY = "def f(x):\n    return x + 1"
DOCUMENTED = 'def f(x):\n    """\n    ```\n    f(1)\n    ```\n    """\n    return x + 1'
INDENTED = BODY.replace("\n", "\n   ")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (f"```python\n{BODY}\n```", BODY),
        (f"```Python\n{BODY}\n```", BODY),
        (f"```PYTHON3\n{BODY}\n```", BODY),
        (f"```python3\n{BODY}\n```", BODY),
        (f"```py\n{BODY}\n```", BODY),
        (f"``` python\n{BODY}\n```", BODY),
        (f'```python title="f.py"\n{BODY}\n```', BODY),
        (f"```{{.python}}\n{BODY}\n```", BODY),
        (f"```\n{BODY}\n```", BODY),
        (f"~~~\n{BODY}\n~~~", BODY),
        (f"~~~python\n{BODY}\n~~~~", BODY),
        (f"````python\n{BODY}\n````", BODY),
        (f"```python\r\n{BODY}\r\n```\r\n", BODY),
        (f"Here it is.\n```python\n{BODY}\n```\nDone.", BODY),
        (f"Here it is: ```python\n{BODY}\n```\nDone.", BODY),
        (f"   ```python\n   {INDENTED}\n   ```", BODY),
        (f"1. Write it:\n\n   ```python\n   {INDENTED}\n   ```\n2. Done.", BODY),
        (f"- ```python\n  {BODY.replace(chr(10), chr(10) + '  ')}\n  ```", BODY),
        (f"      ```python\n      {BODY.replace(chr(10), chr(10) + ' ' * 6)}\n      ```", BODY),
        (f"```python\n{BODY}", BODY),
        (f"```python\n{BODY}\n", f"{BODY}\n"),
        (f"```python\n{DOCUMENTED}\n```\nDone.", DOCUMENTED),
        (f"  ```python\n  {DOCUMENTED.replace(chr(10), chr(10) + '  ')}\n  ```", DOCUMENTED),
        ('````python\n"""\n```\n"""\n````', '"""\n```\n"""'),
        ('~~~python\n"""\n```\n"""\n~~~', '"""\n```\n"""'),
        ('```python\nd = """Use ```f(1)``` here."""\n```', 'd = """Use ```f(1)``` here."""'),
        ("```python\nx = 1\n``` # no closing fence\n```", "x = 1\n``` # no closing fence"),
        ("```python\n```", ""),
        (f"```python\n{BODY}\n```\n```python\nf(1)\n```", BODY),
        (f"```bash\npip install it\n```\n```python\n{BODY}\n```", BODY),
        (f"```text\n{BODY}\n```", BODY),
        (BODY, BODY),
        (DOCUMENTED, DOCUMENTED),
        (f"# ```python\n{DOCUMENTED}", f"# ```python\n{DOCUMENTED}"),
        (f"{DOCUMENTED}\nor\n```python\n{BODY}\n```", "f(1)"),
        ("f = abs", "f = abs"),
        ("`f = abs`", "f = abs"),
        ("``` f = abs ```", "f = abs"),
        ("```python f = abs```", "f = abs"),
        ("s = '`'", "s = '`'"),
        ("`f` and `g`", "`f` and `g`"),
        ("", ""),
    ],
)
def test_program(text, code):
    assert fences.program(text) == code


@settings(deadline=None)
@given(st.text(st.sampled_from("`~ \t\r\npy-1.x"), max_size=60))
def test_any_text_has_a_program(text):
    """Nothing is added: every line of the program ends a line of the text."""
    pieces = fences.LINE.split(fences.program(text))
    assert all(piece in text for piece in pieces)


def test_fenced_programs_are_rewarded():
    for written in (f"\n\n```Python\n{BODY}\n```\n", f"~~~\n{DOCUMENTED}\n~~~", f"```\n{BODY}"):
        assert named.code(reasoned("", written), "assert f(1) == 2") == 1.0
