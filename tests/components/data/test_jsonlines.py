"""JSON lines: where they end, how long one may be, and lines that hold no row."""

import io
import json
import resource
import subprocess
import sys

import pytest

from components.data import jsonlines
from tests.conftest import ROOT

GOOD = b'{"text": "a"}'
BAD = {
    "not_json": [b"{not json", b'{"text": "a"', b'{"text": "a\x0bb"}', b"\x00\x00", b"{}\x0c{}"],
    "not_an_object": [b"null", b"5", b'"text"', b"[1, 2]", b"true", b"NaN"],
    "not_utf8": [b'{"text": "caf\xe9"}', b'{"text": "\xe2\x82"}', GOOD.decode().encode("utf-16")],
    "unpaired_surrogate": [
        rb'{"text": "\ud83d"}',
        rb'{"text": ["\uDE00 b"]}',
        b'{"text": "\xed\xa0\x80"}',
    ],
    "too_deep": [b'{"text": ' + b"[" * 7000, b'{"text": ' + b'{"a":' * 1500],
    "number_too_long": [b'{"text": ' + b"1" * 5000 + b"}"],
    "duplicate_key": [b'{"text": "a", "text": "b"}', b'{"text": {"a": 1, "a": 1}}'],
    "too_large": [b'{"text": "' + b"x" * 9000 + b'"}', b" " * 9000, b"x" * 100_000],
}


def read(content, **options):
    """The rows by their lines, reasons in the place of those that are none."""
    return {
        number: row.reason if isinstance(row, jsonlines.Unusable) else row
        for number, row in jsonlines.rows(io.BytesIO(content), longest=8000, **options)
    }


@pytest.mark.parametrize("reason", BAD)
def test_lines_that_hold_no_row(reason):
    """Each is named, and the rows around it are read."""
    for line in BAD[reason]:
        found = read(b"\n".join([GOOD, line, GOOD, line, GOOD]))
        assert found == {1: {"text": "a"}, 2: reason, 3: {"text": "a"}, 4: reason, 5: {"text": "a"}}


def test_lines_end_at_a_line_feed_alone():
    texts = ["a\u2028b", "a\u2029b", "a\x85b", "a\rb", "a\x0bb", "a\x0cb", "a\x1cb", "a\x1eb"]
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    for end in ("\n", "\r\n", "\n\n", "\n \t\r\n"):
        found = read(end.join(lines).encode())
        assert [row["text"] for row in found.values()] == texts
    assert read(("\n\n" + lines[0]).encode()) == {3: {"text": texts[0]}}


def test_byte_order_marks_and_pairs_are_fine():
    mark = b"\xef\xbb\xbf"
    assert read(mark + GOOD + b"\n" + mark + GOOD) == {1: {"text": "a"}, 2: {"text": "a"}}
    assert read(mark) == read(b"") == read(b"\n\n") == {}
    assert read(rb'{"text": "\ud83d\ude00"}') == {1: {"text": "\U0001f600"}}
    assert read(rb'{"text": "\\ud83d"}') == {1: {"text": "\\ud83d"}}


def test_other_columns_do_not_matter():
    line = rb'{"text": "a", "other": "\ud83d", "score": NaN, "far": -Infinity, "more": 1e999}'
    assert read(line, columns={"text"}) == {1: {"text": "a"}}
    assert read(line) == {1: "unpaired_surrogate"}


def test_a_long_line_is_never_held(tmp_path):
    """Half a gigabyte without an end of line, where 200 MB may be addressed."""
    with (tmp_path / "rows.jsonl").open("wb") as file:
        file.write(GOOD + b"\n")
        file.truncate(512 << 20)
        file.seek(0, 2)
        file.write(b"\n" + GOOD)
    program = "import sys\nfrom components.data import jsonlines\n"
    program += "print([(n, str(row)) for n, row in jsonlines.rows(open(sys.argv[1], 'rb'))])"
    command = [sys.executable, "-c", program, str(tmp_path / "rows.jsonl")]

    def limited():
        resource.setrlimit(resource.RLIMIT_AS, (200 << 20, 200 << 20))

    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, preexec_fn=limited
    )
    assert done.returncode == 0, done.stderr
    row = "{'text': 'a'}"
    wanted = [(1, row), (2, "a line of more than 16,777,216 bytes"), (3, row)]
    assert done.stdout.strip() == str(wanted)
