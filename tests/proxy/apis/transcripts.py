"""Golden streams: the same answer as a llama.cpp server, an Ollama daemon and each API's clients say it.

Shapes as recorded of llama.cpp b11434 and Ollama of August 2026, shortened. `MODEL`, `CREATED` and `ID` are
the same in all. A stream is a list of JSON texts; how they are framed is the dialect's.
"""

import json
from typing import Any

import msgspec

from proxy.wire.sse import EventSplitter

MODEL = "demo"
ID = "chatcmpl-1"
CREATED = 1_754_297_539
NOW = CREATED + 0.25
STARTED = CREATED - 1.0
AT = "2025-08-04T08:52:19.250000Z"

Json = dict[str, Any]


class Transcript(msgspec.Struct, frozen=True):
    """One answer, as the two servers say it, and as it must reach the clients.

    `openai` and `anthropic` are what becomes of Ollama's stream, `to_ollama` what becomes of llama.cpp's.
    """

    name: str
    llama: list[str]
    ollama: list[str]
    openai: list[str]
    to_ollama: list[str]
    anthropic: list[str]


def chunk(delta: str, reason: str = "null", more: str = "", start: str = "") -> str:
    """An OpenAI chunk."""
    choice = f'{{"index":0,"delta":{delta}{more},"finish_reason":{reason}}}'
    return (
        f'{{"choices":[{start or choice}],"created":{CREATED},"id":"{ID}","model":"{MODEL}",'
        '"object":"chat.completion.chunk"}'
    )


def usage(prompt: int, completion: int, cached: int = 0, timings: str = "") -> str:
    """The chunk with OpenAI's usage."""
    return (
        f'{{"choices":[],"created":{CREATED},"id":"{ID}","model":"{MODEL}","object":"chat.completion.chunk",'
        f'"usage":{{"completion_tokens":{completion},"prompt_tokens":{prompt},'
        f'"total_tokens":{prompt + completion},'
        f'"prompt_tokens_details":{{"cached_tokens":{cached}}}}}{timings}}}'
    )


def line(message: str, more: str = '"done":false') -> str:
    """A line of Ollama's /api/chat."""
    message = f'{{"role":"assistant",{message}}}'
    return f'{{"model":"{MODEL}","created_at":"{AT}","message":{message},{more}}}'


ROLE = chunk('{"role":"assistant","content":null}')
OPENAI_ROLE = chunk('{"role":"assistant","content":""}')
PROGRESS = ROLE[:-1] + ',"prompt_progress":{"total":9,"cache":4,"processed":9,"time_ms":3}}'
TIMINGS = (
    ',"timings":{"cache_n":4,"prompt_n":5,"prompt_ms":50.0,"prompt_per_token_ms":10.0,'
    '"predicted_n":2,"predicted_ms":20.0,"predicted_per_second":100.0}'
)
OLLAMA_END = '"done":true,"done_reason":"%s"'
COUNTERS = ',"total_duration":3000,"load_duration":1000,"prompt_eval_count":9,"eval_count":2'
COUNTED = ',"total_duration":1250000000,"prompt_eval_count":9,"eval_count":2'
BEGUN = (
    f'{{"type":"message_start","message":{{"id":"msg_1","type":"message","role":"assistant","content":[],'
    f'"model":"{MODEL}","stop_reason":null,"stop_sequence":null,'
    '"usage":{"input_tokens":0,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":0}}}'
)
MESSAGE_STOP = '{"type":"message_stop"}'


def block(index: int, start: str) -> str:
    """The beginning of one of Anthropic's blocks."""
    return f'{{"type":"content_block_start","index":{index},"content_block":{start}}}'


def delta(index: int, piece: str) -> str:
    """A piece of one of Anthropic's blocks."""
    return f'{{"type":"content_block_delta","index":{index},"delta":{piece}}}'


def stop(index: int) -> str:
    """The end of one of Anthropic's blocks."""
    return f'{{"type":"content_block_stop","index":{index}}}'


def ended(reason: str) -> str:
    """Anthropic's last event but one."""
    return (
        f'{{"type":"message_delta","delta":{{"stop_reason":"{reason}","stop_sequence":null}},'
        '"usage":{"input_tokens":9,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":2}}'
    )


TEXT = '{"type":"text","text":""}'
THINKING = '{"type":"thinking","thinking":"","signature":""}'
SIGNED = '{"type":"signature_delta","signature":"bGxhbWEtc21hcnQtcHJveHk="}'


def tool_use(name: str, identifier: str) -> str:
    """The beginning of a tool's block."""
    return f'{{"type":"tool_use","id":"{identifier}","name":"{name}","input":{{}}}}'


TRANSCRIPTS = [
    Transcript(
        "text, with what the prompt's cache held and how long it took",
        llama=[
            PROGRESS,
            ROLE,
            chunk('{"content":"Grüße"}'),
            chunk('{"content":", \\"du\\"\\n"}'),
            chunk("{}", '"stop"'),
            usage(9, 2, 4, TIMINGS),
            "[DONE]",
        ],
        ollama=[
            line('"content":"Grüße"'),
            line('"content":", \\"du\\"\\n"'),
            line(
                '"content":""',
                OLLAMA_END % "stop" + COUNTERS + ',"prompt_eval_duration":50000000,"eval_duration":20000000',
            ),
        ],
        openai=[
            OPENAI_ROLE,
            chunk('{"content":"Grüße"}'),
            chunk('{"content":", \\"du\\"\\n"}'),
            chunk("{}", '"stop"'),
            usage(
                9,
                2,
                0,
                ',"timings":{"cache_n":0,"prompt_n":9,"prompt_ms":50.0,"predicted_n":2,"predicted_ms":20.0}',
            ),
            "[DONE]",
        ],
        to_ollama=[
            line('"content":"Grüße"'),
            line('"content":", \\"du\\"\\n"'),
            line(
                '"content":""',
                OLLAMA_END % "stop" + COUNTED + ',"prompt_eval_duration":50000000,"eval_duration":20000000',
            ),
        ],
        anthropic=[
            BEGUN,
            block(0, TEXT),
            delta(0, '{"type":"text_delta","text":"Grüße"}'),
            delta(0, '{"type":"text_delta","text":", \\"du\\"\\n"}'),
            stop(0),
            ended("end_turn"),
            MESSAGE_STOP,
        ],
    ),
    Transcript(
        "reasoning, then text that is cut off by the limit",
        llama=[
            ROLE,
            chunk('{"reasoning_content":"Hm"}'),
            chunk('{"content":"So"}'),
            chunk("{}", '"length"'),
            usage(9, 2),
            "[DONE]",
        ],
        ollama=[
            line('"content":"","thinking":"Hm"'),
            line('"content":"So"'),
            line('"content":""', OLLAMA_END % "length" + COUNTERS),
        ],
        openai=[
            OPENAI_ROLE,
            chunk('{"reasoning_content":"Hm"}'),
            chunk('{"content":"So"}'),
            chunk("{}", '"length"'),
            usage(9, 2),
            "[DONE]",
        ],
        to_ollama=[
            line('"content":"","thinking":"Hm"'),
            line('"content":"So"'),
            line('"content":""', OLLAMA_END % "length" + COUNTED),
        ],
        anthropic=[
            BEGUN,
            block(0, THINKING),
            delta(0, '{"type":"thinking_delta","thinking":"Hm"}'),
            delta(0, SIGNED),
            stop(0),
            block(1, TEXT),
            delta(1, '{"type":"text_delta","text":"So"}'),
            stop(1),
            ended("max_tokens"),
            MESSAGE_STOP,
        ],
    ),
    Transcript(
        "parallel tool calls: pieces of text from one, objects in the last line from the other",
        llama=[
            ROLE,
            chunk('{"content":"Well"}'),
            chunk(
                '{"tool_calls":[{"index":0,"id":"a","type":"function","function":{"name":"f","arguments":"{"}}]}'
            ),
            chunk('{"tool_calls":[{"index":0,"function":{"arguments":"\\"x\\": 1.50}"}}]}'),
            chunk(
                '{"tool_calls":[{"index":1,"id":"b","type":"function","function":{"name":"g","arguments":""}}]}'
            ),
            chunk("{}", '"tool_calls"'),
            usage(9, 2),
            "[DONE]",
        ],
        ollama=[
            line('"content":"Well"'),
            line(
                '"content":"","tool_calls":['
                '{"id":"a","function":{"index":0,"name":"f","arguments":{"x": 1.50}}},'
                '{"id":"b","function":{"index":0,"name":"g","arguments":{}}}]',
                OLLAMA_END % "stop" + COUNTERS,
            ),
        ],
        openai=[
            OPENAI_ROLE,
            chunk('{"content":"Well"}'),
            chunk(
                '{"tool_calls":[{"index":0,"id":"a","type":"function",'
                '"function":{"name":"f","arguments":"{\\"x\\":1.50}"}}]}'
            ),
            chunk(
                '{"tool_calls":[{"index":1,"id":"b","type":"function","function":{"name":"g","arguments":"{}"}}]}'
            ),
            chunk("{}", '"tool_calls"'),
            usage(9, 2),
            "[DONE]",
        ],
        to_ollama=[
            line('"content":"Well"'),
            line(
                '"content":"","tool_calls":['
                '{"id":"a","function":{"index":0,"name":"f","arguments":{"x":1.50}}},'
                '{"id":"b","function":{"index":1,"name":"g","arguments":{}}}]'
            ),
            line('"content":""', OLLAMA_END % "stop" + COUNTED),
        ],
        anthropic=[
            BEGUN,
            block(0, TEXT),
            delta(0, '{"type":"text_delta","text":"Well"}'),
            stop(0),
            block(1, tool_use("f", "a")),
            delta(1, '{"type":"input_json_delta","partial_json":"{\\"x\\":1.50}"}'),
            stop(1),
            block(2, tool_use("g", "b")),
            delta(2, '{"type":"input_json_delta","partial_json":"{}"}'),
            stop(2),
            ended("tool_use"),
            MESSAGE_STOP,
        ],
    ),
    Transcript(
        "an error in the middle",
        llama=[
            ROLE,
            chunk('{"content":"So"}'),
            '{"error":{"code":500,"message":"out of memory","type":"server_error"}}',
        ],
        ollama=[line('"content":"So"'), '{"error":"out of memory"}'],
        openai=[
            OPENAI_ROLE,
            chunk('{"content":"So"}'),
            '{"error":{"message":"out of memory","type":"server_error","param":null,"code":null}}',
        ],
        to_ollama=[line('"content":"So"'), '{"error":"out of memory"}'],
        anthropic=[
            BEGUN,
            block(0, TEXT),
            delta(0, '{"type":"text_delta","text":"So"}'),
            '{"type":"error","error":{"type":"api_error","message":"out of memory"},"request_id":"r"}',
        ],
    ),
    Transcript(
        "an error before the first piece",
        llama=['{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}'],
        ollama=['{"error":"Loading model"}'],
        openai=['{"error":{"message":"Loading model","type":"server_error","param":null,"code":null}}'],
        to_ollama=['{"error":"Loading model"}'],
        anthropic=[
            '{"type":"error","error":{"type":"api_error","message":"Loading model"},"request_id":"r"}'
        ],
    ),
    Transcript(
        "probabilities",
        llama=[
            ROLE,
            chunk(
                '{"content":"So"}',
                more=',"logprobs":{"content":[{"token":"So","logprob":-0.5,"bytes":[83,111],"top_logprobs":[]}]}',
            ),
            chunk("{}", '"stop"'),
            usage(9, 2),
            "[DONE]",
        ],
        ollama=[
            line(
                '"content":"So"',
                '"done":false,"logprobs":[{"token":"So","logprob":-0.5,"bytes":[83,111],"top_logprobs":[]}]',
            ),
            line('"content":""', OLLAMA_END % "stop" + COUNTERS),
        ],
        openai=[
            OPENAI_ROLE,
            chunk(
                '{"content":"So"}',
                more=',"logprobs":{"content":[{"token":"So","logprob":-0.5,"bytes":[83,111],"top_logprobs":[]}]}',
            ),
            chunk("{}", '"stop"'),
            usage(9, 2),
            "[DONE]",
        ],
        to_ollama=[
            line(
                '"content":"So"',
                '"done":false,"logprobs":[{"token":"So","logprob":-0.5,"bytes":[83,111],"top_logprobs":[]}]',
            ),
            line('"content":""', OLLAMA_END % "stop" + COUNTED),
        ],
        anthropic=[
            BEGUN,
            block(0, TEXT),
            delta(0, '{"type":"text_delta","text":"So"}'),
            stop(0),
            ended("end_turn"),
            MESSAGE_STOP,
        ],
    ),
]


def sse(events: list[str]) -> bytes:
    """A stream of server-sent events, with comments and what else llama.cpp puts in between."""
    return b":\n\n" + b"".join(f"data: {event}\n\n".encode() for event in events)


def ndjson(lines: list[str]) -> bytes:
    """A stream of lines."""
    return "".join(f"{line}\n" for line in lines).encode()


def read_sse(data: bytes) -> list[Any]:
    """The events of a stream, decoded; for each that has a type, it must be its data's."""
    result: list[Any] = []
    for event in EventSplitter().feed(data):
        value = event.data.decode()
        result.append(value if value == "[DONE]" else json.loads(value))
        assert not event.type or event.type == result[-1]["type"]
    return result


def parsed(texts: list[str]) -> list[Any]:
    """The expected events, decoded."""
    return [text if text == "[DONE]" else json.loads(text) for text in texts]
