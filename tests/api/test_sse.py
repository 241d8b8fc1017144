"""The decoder of Server-Sent Events: right for any cut of the bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from surefoot._sse import Decoder, Message

text = st.text(alphabet=st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]))
messages = st.lists(
    st.builds(Message, event=text.filter(bool), data=st.lists(text, min_size=1).map("\n".join), id=text), max_size=5
)


def encode(message: Message, end: str) -> bytes:
    lines = [
        f"event: {message.event}",
        *(f"data: {line}" for line in message.data.split("\n")),
        f"id: {message.id}",
        "",
        "",
    ]
    return end.join(lines).encode()


@given(messages, st.sampled_from(["\n", "\r\n", "\r"]), st.data())
def test_any_cut_of_the_bytes_gives_the_same_messages(sent: list[Message], end: str, data: st.DataObject) -> None:
    stream = b"".join(encode(message, end) for message in sent) + b": the end\n\n"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    decoder, got = Decoder(), []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += decoder.feed(stream[start:stop])
    assert got == sent


def test_separators_that_python_knows_and_the_format_does_not_stay_in_the_data() -> None:
    (message,) = Decoder().feed('data: {"a": "x\u2028y\x85z\x0b"}\n\n'.encode())
    assert message.data == '{"a": "x\u2028y\x85z\x0b"}'


def test_comments_and_unknown_fields_are_no_messages() -> None:
    assert Decoder().feed(b": quiet\n\nretry: 5\n\nid: 7\n\n") == []


def test_the_id_stays_until_another_comes() -> None:
    got = Decoder().feed(b"id: 1-2\ndata: a\n\ndata: b\n\n")
    assert [message.id for message in got] == ["1-2", "1-2"]
    assert [message.event for message in got] == ["message", "message"]
