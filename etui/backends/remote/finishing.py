"""Build the last event of a remote answer: tokens and phases as the server reports them. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from etui.backends.remote.pieces import Usage
from etui.backends.remote.reply import Reply
from etui.backends.remote.retries import Failure
from etui.chat import Message
from etui.events import Finished, Status
from etui.reasoning.control import BUDGET
from etui.units import count_text, seconds_text

_CHARACTERS_PER_TOKEN = 4
_NOTABLE_LOAD_SECONDS = 0.5


def estimate_prompt_tokens(messages: Sequence[Message]) -> int:
    """Estimate the tokens of a prompt, until the server reports them: four characters each."""
    characters = sum(len(message.content) + len(message.tool_calls) for message in messages)
    return max(1, -(-characters // _CHARACTERS_PER_TOKEN))


def known_prompt(usage: Usage) -> tuple[int | None, int]:
    """Return the tokens of the prompt (None if unknown), and the cached ones of them."""
    prompt = usage.prompt_tokens
    cached = usage.cached_tokens or 0
    return prompt, cached if prompt is None else min(cached, prompt)


def describe_end(reply: Reply, outcome: str, max_tokens: int) -> tuple[Status, str]:
    """Return the status of an answer, and the reason for it.

    Args:
        outcome: How reading it ended.
    """
    tokens = count_text(reply.answer_tokens, "token")
    if outcome == "cancelled":
        if reply.first_ns is None:
            return "stopped", "stopped while computing the prompt"
        where = "thinking" if reply.is_thinking and reply.thinking else "answering"
        return "stopped", f"stopped while {where}"
    if outcome == "hurried":
        return "budget", f"{BUDGET} ended the answer after {reply.answer_tokens} tokens"
    if outcome == "limit" or reply.finish == "length":
        limit = "max tokens" if reply.tokens >= max_tokens or outcome == "limit" else "the server"
        return "truncated", f"{limit} cut off the answer after {tokens}"
    if reply.finish == "content_filter":
        return "complete", "a filter of the server ended the answer"
    return "complete", ""


def describe_notes(requests: Sequence[Sequence[Reply]], retried: Sequence[Failure]) -> list[str]:
    """Describe what a reader of the numbers has to know: further tries, loads, estimates.

    Args:
        retried: Failures of tries that were followed by another.
    """
    notes = []
    if retried:
        tries = count_text(len(retried) + 1, "try", "tries")
        notes.append(f"{tries}: {retried[-1].what}")
    loads = [replies[0].timings.load_seconds or 0.0 for replies in requests]
    if max(loads, default=0.0) >= _NOTABLE_LOAD_SECONDS:
        notes.append(f"the server loaded the model for {seconds_text(sum(loads))}")
    if any(not _reports_tokens(replies) for replies in requests):
        notes.append("the server reports no tokens: they are counted by pieces")
    if any(replies[0].usage.prompt_tokens is None for replies in requests):
        notes.append("prompt tokens are an estimate")
    return notes


def find_prefill_end(reply: Reply, start_ns: int, end_ns: int) -> int:
    """Find the end of the prefill on this machine's clock.

    The decode ended with the last token, so it began the server's decode time before that. It
    cannot have begun after the first token, nor before the request was sent. Without a time of the
    server it is the time of the first token.

    Args:
        reply: The first request of the answer.
        end_ns: The end of the answer, for one without tokens.
    """
    if reply.first_ns is None or reply.last_ns is None:
        return end_ns
    decode = reply.timings.decode_seconds
    if decode is None:
        return reply.first_ns
    return max(start_ns, min(reply.first_ns, reply.last_ns - round(decode * 1e9)))


def build_finished(
    requests: Sequence[Sequence[Reply]],
    *,
    start_ns: int,
    now_ns: int,
    status: Status,
    why: str,
    estimated_prompt: int,
) -> Finished:
    """Build the last event of an answer.

    Args:
        requests: The replies of each of its requests, in order; what a server reports of a request
            is in the first of its replies. The text of the answer is that of the last request.
        start_ns: When the first one was sent.
        now_ns: The time now, for an answer without tokens.
        why: What ended it, in words.
        estimated_prompt: Tokens of the prompt where the server reports none.
    """
    replies = [reply for each in requests for reply in each]
    ends = [reply.last_ns for reply in replies if reply.last_ns is not None]
    firsts = [reply.first_ns for reply in replies if reply.first_ns is not None]
    end_ns = max(ends, default=now_ns)
    prefill_end_ns = min(firsts, default=end_ns)
    if len(requests) > 0 and len(requests[0]) == 1 and requests[0][0].first_ns == prefill_end_ns:
        prefill_end_ns = find_prefill_end(requests[0][0], start_ns, end_ns)
    thinking = "".join(reply.thinking for reply in replies).strip()
    thinking_end_ns = prefill_end_ns
    if thinking:
        found = [r.thinking_end_ns for r in replies if r.thinking_end_ns is not None]
        thinking_end_ns = max(prefill_end_ns, max(found, default=end_ns))
    counted = [_count_tokens(each) for each in requests]
    prompts = [known_prompt(each[0].usage) for each in requests]
    prompt = sum(estimated_prompt if tokens is None else tokens for tokens, _ in prompts)
    cached = min(sum(tokens for _, tokens in prompts), prompt)
    last = replies[-1] if replies else None
    return Finished(
        start_ns=start_ns,
        prefill_end_ns=prefill_end_ns,
        thinking_end_ns=thinking_end_ns,
        end_ns=end_ns,
        first_token_ns=min(firsts, default=None),
        status=status,
        why=why,
        answer=last.answer.strip() if last else "",
        thinking=thinking,
        prompt_tokens=prompt,
        cached_tokens=cached,
        computed_tokens=prompt - cached,
        thinking_tokens=sum(thinking for thinking, _ in counted),
        output_tokens=sum(total for _, total in counted),
        confidence=last.mean_probability if last else None,
        tool_calls=last.tool_calls if last else "",
    )


def _count_tokens(replies: Sequence[Reply]) -> tuple[int, int]:
    """Return the tokens of the thinking and of all of the output of one request."""
    if len(replies) == 1:
        return replies[0].count_tokens()
    pieces = sum(reply.tokens for reply in replies)
    thinking = sum(reply.count_tokens()[0] for reply in replies[1:])
    thinking += replies[0].thinking_tokens if replies[0].thinking.strip() else 0
    if not _reports_tokens(replies):
        return thinking, pieces
    total = replies[0].usage.output_tokens or 0
    return round(total * thinking / pieces) if pieces else 0, total


def _reports_tokens(replies: Sequence[Reply]) -> bool:
    """Return whether the server reports the tokens of a request, and of all of its answers.

    A number below that of the pieces is the number of one of several answers.
    """
    pieces = sum(reply.tokens for reply in replies)
    total = replies[0].usage.output_tokens
    if total is None:
        return not pieces
    return len(replies) == 1 or total >= pieces
