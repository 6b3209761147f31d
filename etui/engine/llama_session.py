"""Session over llama.cpp: many sequences in one context, computed in mixed batches."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from etui.arm import Sampling, Speculate
from etui.chat import Message
from etui.engine.batch_decoder import BatchDecoder, LlamaSequence, Outputs
from etui.engine.chat_prompt import ChatPrompt, ChatTemplate
from etui.engine.constraint import Constraints
from etui.engine.context import Context, ContextOptions
from etui.engine.model import Model
from etui.engine.sampler import Script
from etui.engine.sequence_cache import SequenceCache
from etui.engine.session import (
    LikelyToken,
    ModelFacts,
    OutputGrammar,
    RecalledSequence,
    Sampled,
    Step,
    TokenSequence,
)
from etui.engine.special_tokens import SpecialTokens
from etui.engine.speculation.batch_cost import CPU_CURVE, GPU_CURVE, BatchCost
from etui.engine.speculation.draft_model import DraftModel, Vocabulary
from etui.engine.speculation.draft_verifier import DraftVerifier, refuse_speculation, take_verified
from etui.engine.speculation.mtp import load_heads
from etui.engine.speculation.speculator import Drafter, Speculator
from etui.engine.thread_control import ThreadControl
from etui.errors import ContextOverflow
from etui.events import Verified

if TYPE_CHECKING:
    from etui.engine.library import Library


SHORT_QUEUE = 16
"""Queues up to this length are computed before prompts: those of a hand-over, or of a probe."""


def plan_batch(
    pending: Sequence[int],
    room: int,
    *,
    prompt_limit: int | None = None,
    decoding: bool = False,
) -> list[tuple[int, int]]:
    """Plan one batch: single tokens first, then longer queues, up to the size of a batch.

    Args:
        pending: Queued tokens of each sequence, at least one, in the order in which they are
            served.
        room: Maximum number of tokens of the batch.
        prompt_limit: Maximum number of tokens from longer queues while another sequence decodes,
            so that its next token waits for one chunk of a prompt and not for all of it. Short
            queues are then served first. None sets no limit and keeps the given order.
        decoding: Whether a sequence that is not in ``pending`` decodes, too.

    Returns:
        Pairs of index and number of tokens; sequences that have to wait are missing.
    """
    singles = [index for index, count in enumerate(pending) if count == 1][:room]
    plan = [(index, 1) for index in singles]
    room -= len(plan)
    longer = [index for index, count in enumerate(pending) if count > 1]
    if prompt_limit is not None:
        longer.sort(key=lambda index: pending[index] > SHORT_QUEUE)  # stable
        if singles or decoding:
            room = min(room, prompt_limit)
    for index in longer:
        count = min(pending[index], room)
        if count:
            plan.append((index, count))
            room -= count
    return plan


def rotate(ids: Sequence[int], last: int) -> list[int]:
    """Return the indices of ids in their order, beginning after the id that was served last.

    Args:
        last: Id of the sequence that was served last; it need not be one of them.
    """
    order = sorted(range(len(ids)), key=ids.__getitem__)
    return [index for index in order if ids[index] > last] + [
        index for index in order if ids[index] <= last
    ]


_TAIL_TOKENS = 64
"""Tokens whose text shows where a recalled answer ends."""


class LlamaSession:
    """One model in memory, as :class:`etui.engine.session.Session` says; for one thread at a time.

    Closed sequences stay in the cache as prefix donors until their slot or their cells are needed;
    the least recently used one is evicted first.

    Attributes:
        planned: Number of tokens in the last batch by sequence id, even if the batch failed.
    """

    def __init__(
        self, model: Model, context: Context, facts: ModelFacts, template: ChatTemplate
    ) -> None:
        self._model = model
        self._context = context
        self._facts = facts
        self._special = SpecialTokens(model.special_tokens())
        self._constraints = Constraints(context.api, model)
        self._prompt = ChatPrompt(template, self._special, facts.tool_format, facts.name)
        self.planned: Mapping[int, int] = {}
        self._served_id = 0  # the prompt that got tokens in the last mixed batch
        self._drafts = DraftVerifier(
            Speculator(BatchCost(GPU_CURVE if model.offloaded else CPU_CURVE)),
            context,
            facts.context_tokens,
            refuse_speculation(model, context.options),
        )
        self._sequences = SequenceCache(context, model, facts.context_tokens, self._drafts.drop)
        self._decoder = BatchDecoder(context, self._drafts, self._sequences.evict)
        self._outputs = Outputs(context, model, self._decoder)

    @property
    def facts(self) -> ModelFacts:
        """Properties of the model."""
        return self._facts

    @property
    def options(self) -> ContextOptions:
        """Settings of the context, on which results depend in addition to the model."""
        return self._context.options

    @property
    def threads(self) -> ThreadControl:
        """The thread counts, which may follow the load of the machine."""
        return self._context.threads

    @property
    def speculator(self) -> Speculator:
        """The drafters, and how many tokens they draft."""
        return self._drafts.speculator

    @property
    def vocabulary(self) -> Vocabulary:
        """Vocabulary, with which that of a draft model must agree."""
        return self._model

    @property
    def size_bytes(self) -> int:
        """Size of the weights."""
        return self._model.size_bytes

    def add_drafter(self, drafter: Drafter) -> None:
        """Let a model draft; it is freed with the session."""
        if isinstance(drafter, DraftModel):
            drafter.follow_threads(self._context.threads)
        self.speculator.add(drafter)

    def open_heads(self, library: Library) -> None:
        """Let the model's own heads draft, if its file has any and this build can use them."""
        heads = load_heads(library, self._model, self._context)
        if heads is not None:
            self._drafts.add_heads(heads)

    def note_missing_draft(self, why: str) -> None:
        """Set the reason why there is no draft model, for arms that ask for it."""
        self._drafts.missing_draft = why

    @property
    def free_tokens(self) -> int:
        """Cells not held by open sequences; shared prefixes count once."""
        return self._sequences.free_tokens

    def count_cells(self, sequences: Iterable[TokenSequence]) -> int:
        """Count the cells that sequences hold; shared ones count once."""
        return self._sequences.count_cells(sequences)

    def share_among_clients(self) -> None:
        """Keep the prefixes of several clients, and compute one that requests share only once."""
        self._sequences.donors.serve_several_clients(self._context.options.sequences // 2)

    @property
    def free_sequences(self) -> int:
        """Number of sequences that can still be opened or forked."""
        return self._sequences.free_sequences

    def render(
        self, messages: Sequence[Message], *, thinking: bool | None = None, tools: str = ""
    ) -> str:
        """Render the prompt up to and including the assistant's header.

        Stand-ins replace the characters of special tokens in the messages, so that only what the
        template writes becomes one; :meth:`tokenize` puts the characters back.
        """
        switch = self._facts.thinking_switch
        variables = {} if thinking is None or switch is None else {switch: thinking}
        return self._prompt.render(messages, variables, tools)

    def tokenize(self, text: str, *, bos: bool = False, special: bool = True) -> list[int]:
        """Tokenize a text; ``bos`` prepends the begin token, once, if the model uses one.

        With ``special``, the text may be a rendered one with stand-ins in it.
        """
        if not special:
            return self._model.tokenize(text, bos=bos, special=False)
        tokens = self._special.tokenize(
            text, lambda piece, parsed: self._model.tokenize(piece, special=parsed)
        )
        return self._model.with_bos(tokens) if bos else tokens

    def open(
        self,
        tokens: Sequence[int],
        sampling: Sampling,
        script: Sequence[int] | None = None,
        *,
        owner: str = "",
        label: str = "",
    ) -> LlamaSequence:
        """Open a sequence, reusing the longest common token prefix in the cache.

        With one user, all other closed sequences are evicted: the cells they hold would slow down
        the attention of each of its tokens.

        Args:
            tokens: Its first tokens, at least one.
            script: Tokens to draw one after another, whatever the logits say; None draws freely.
            owner: Whose it is: it reuses nothing of other owners.
            label: Name under which ``recall`` finds it and its forks; empty for none.

        Raises:
            ContextOverflow: The tokens do not fit into the context.
            EngineFailed: The context has no sequence left.
        """
        if not tokens:
            raise ValueError("a sequence needs at least one token")
        if len(tokens) > self._facts.context_tokens:
            raise ContextOverflow(len(tokens), self._facts.context_tokens, 0)
        sequence = self._sequences.open(list(tokens), sampling, owner, label)
        if script is not None:
            sequence.script = Script(len(tokens), tuple(script))
        return sequence

    def fork(self, sequence: TokenSequence, sampling: Sampling) -> LlamaSequence:
        """Fork a sequence, with what is computed, queued and scripted."""
        parent = self._sequences.find(sequence)
        self._drafts.drop(parent)
        return self._sequences.fork(parent, sampling)

    def extend(self, sequence: TokenSequence, tokens: Sequence[int]) -> None:
        """Queue tokens that the model did not draw."""
        own = self._sequences.find(sequence)
        self._drafts.drop(own)
        own.tokens.extend(tokens)

    def rollback(self, sequence: TokenSequence, count: int) -> bool:
        """Remove the last tokens."""
        own = self._sequences.find(sequence)
        keep = len(own.tokens) - count
        if count < 0 or keep < 0:
            raise ValueError(f"cannot remove {count} of {len(own.tokens)} tokens")
        self._drafts.drop(own)
        if keep < own.computed and not self._sequences.truncate(own, keep):
            return False
        del own.tokens[keep:]
        if own.speculation is not None and own.speculation.index is not None:
            own.speculation.index.truncate(keep)
        return True

    def step(self, sequences: Sequence[TokenSequence], *, draw: bool = True) -> Step:
        """Compute one batch of queued tokens, and draw where a queue became empty."""
        return self.step_mixed([(sequence, draw) for sequence in sequences], prompt_limit=None)

    def step_mixed(
        self, wanted: Sequence[tuple[TokenSequence, bool]], *, prompt_limit: int | None
    ) -> Step:
        """Compute one batch for several owners, as ``step`` does for one; it raises the same.

        Args:
            prompt_limit: Maximum number of prompt tokens in the batch while another sequence
                decodes; prompts are then served in turn. None sets no limit, and serves prompts in
                the given order.
        """
        own = [(self._sequences.find(sequence), draw) for sequence, draw in wanted]
        draws = {s.id: draw for s, draw in own}
        epoch = self._decoder.epoch
        ready = [s for s, _ in own if s.epoch == epoch and s.computed == len(s.tokens)]
        sampled = [self._draw(s) for s in ready if draws[s.id]]
        rest = [s for s, _ in own if s not in ready]
        rest = [s for s in rest if not self._sequences.waits(s, draws)]
        plan = self._plan(rest, prompt_limit, decoding=bool(ready))
        self.planned = {s.id: count for s, count in plan}
        kept = []
        if plan:
            # The batch overwrites the logits of its rows.
            kept = [(s, self._context.logits(s.row).copy()) for s in ready if s.epoch == epoch]
            self._drafts.drop()
            self._drafts.plan(plan, alone=len(own) == 1 and own[0][1])
        start_ns = time.monotonic_ns()
        # Without room for it, the next step raises CacheFull: drawn tokens must not get lost.
        plan = self._decoder.decode(plan, len(self._sequences.live), may_wait=bool(sampled))
        end_ns = time.monotonic_ns()
        for sequence, logits in kept:
            sequence.kept_logits = (self._decoder.epoch, logits)
        if plan:
            self._drafts.learn(plan, start_ns, end_ns)
        for sequence, count in plan:
            self._sequences.add_computed(sequence, count)
            if sequence.computed == len(sequence.tokens):
                sequence.epoch = self._decoder.epoch
                if draws[sequence.id]:
                    sampled.append(self._draw(sequence))
        computed = {sequence.id: count for sequence, count in plan}
        verified = [(event, s.id) for s, _ in own for event in take_verified(s)]
        events, ids = zip(*verified, strict=True) if verified else ((), ())
        return Step(start_ns, end_ns, computed, tuple(sampled), events, ids)

    def _plan(
        self, sequences: Sequence[LlamaSequence], prompt_limit: int | None, *, decoding: bool
    ) -> list[tuple[LlamaSequence, int]]:
        """Plan how many queued tokens of which sequence this batch computes."""
        for sequence in sequences:
            length = len(sequence.tokens)
            if length > self._facts.context_tokens:
                raise ContextOverflow(length, self._facts.context_tokens, 0)
            if sequence.computed == length:
                self._sequences.requeue_last(sequence)
        if prompt_limit is not None:
            prompts = [sequence for sequence in sequences if sequence.pending > 1]
            order = rotate([sequence.id for sequence in prompts], self._served_id)
            singles = [sequence for sequence in sequences if sequence.pending == 1]
            sequences = [*singles, *(prompts[index] for index in order)]
        pending = [sequence.pending for sequence in sequences]
        room = self._context.batch.capacity
        counts = plan_batch(pending, room, prompt_limit=prompt_limit, decoding=decoding)
        plan = [(sequences[index], count) for index, count in counts]
        if plan and plan[-1][1] > 1:
            self._served_id = plan[-1][0].id
        return plan

    def _draw(self, sequence: LlamaSequence) -> Sampled:
        sampled = self._outputs.draw(sequence)
        if self._drafts.verification is not None and not sampled.stuck:
            self._sequences.next_cell += self._drafts.judge(
                sequence, sampled.token, self._sequences.next_cell, ends=sampled.ends
            )
        return sampled

    def logprobs(self, sequence: TokenSequence, tokens: Sequence[int]) -> list[float]:
        """Return log-probabilities of next tokens after the last step."""
        return self._outputs.logprobs(self._sequences.find(sequence), tokens)

    def top_logprobs(self, sequence: TokenSequence, count: int) -> tuple[LikelyToken, ...]:
        """Return the most likely tokens where the last step drew a token."""
        return self._outputs.rank(self._sequences.find(sequence), count)

    def constrain(self, sequence: TokenSequence, grammar: OutputGrammar) -> None:
        """Let steps draw only tokens that the grammar allows."""
        own = self._sequences.find(sequence)
        constraint = self._constraints.make(grammar, len(own.tokens))
        if own.constraint is not None:
            own.constraint.free()
        self._drafts.drop(own)
        self._drafts.stop(own)
        own.speculation, own.constraint = None, constraint

    def close(self, sequence: TokenSequence, *, keep: bool = True) -> None:
        """Close a sequence; with ``keep`` its tokens stay cached as a prefix."""
        own = self._sequences.live.get(sequence.id)
        if own is None:
            return
        self._drafts.drop(own)
        self._drafts.stop(own)
        own.sampler.free()
        if own.constraint is not None:
            own.constraint.free()
        self._sequences.close(own, keep=keep)

    def recall(self, label: str, owner: str = "") -> RecalledSequence | None:
        """Return the latest closed sequence with this label and owner; None if it was evicted."""
        donor = self._sequences.find_closed(label, owner)
        if donor is None:
            return None
        tokens = (*donor.tokens, *donor.rest)
        pieces = [self._model.piece(token)[0] for token in tokens[-_TAIL_TOKENS:]]
        return RecalledSequence(tokens, b"".join(pieces))

    def forget(self) -> None:
        """Forget closed sequences and what was drafted for any."""
        while self._sequences.evict():
            pass
        self.speculator.forget()

    def free(self) -> None:
        """Free the context and the model."""
        for sequence in list(self._sequences.live.values()):
            self.close(sequence, keep=False)
        self.speculator.free()
        self._context.free()
        self._model.free()

    def speculate(self, sequence: TokenSequence, method: Speculate) -> str:
        """Let steps of this sequence alone verify drafted tokens."""
        own = self._sequences.find(sequence)
        if own.constraint is not None:
            return "a grammar constrains the answer"
        return self._drafts.start(own, method)

    def settle(self, sequence: TokenSequence) -> tuple[Verified, ...]:
        """Drop the drafted tokens not drawn yet."""
        own = self._sequences.find(sequence)
        self._drafts.drop(own)
        return take_verified(own)
