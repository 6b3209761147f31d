"""Session over llama.cpp: many sequences in one context, computed in mixed batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from etui.arm import Sampling, Speculate
from etui.chat import Message
from etui.engine.context import DECODED, NO_ROOM, Context, ContextOptions
from etui.engine.log_sum import LogSum
from etui.engine.model import Model
from etui.engine.prefix_cache import Donor, Reuse, choose_reuse
from etui.engine.sampler import Sampler, Script
from etui.engine.session import ModelFacts, Sampled, Step, TokenSequence
from etui.engine.special_tokens import SpecialTokens
from etui.engine.speculation.batch_cost import CPU_CURVE, GPU_CURVE, BatchCost
from etui.engine.speculation.draft_model import DraftModel, Vocabulary
from etui.engine.speculation.draft_verifier import (
    DraftVerifier,
    refuse_speculation,
    take_verified,
)
from etui.engine.speculation.mtp import load_heads
from etui.engine.speculation.speculator import Drafter, Speculation, Speculator
from etui.engine.template import ChatTemplate
from etui.engine.thread_control import ThreadControl
from etui.errors import CacheFull, ContextOverflow, EngineFailed
from etui.events import Verified

if TYPE_CHECKING:
    from etui.engine.library import Library


class LlamaSequence:
    """One sequence: ``tokens[:computed]`` are in the cache, the rest is queued."""

    __slots__ = (
        "cached",
        "cells",
        "computed",
        "epoch",
        "id",
        "row",
        "sampler",
        "script",
        "slot",
        "speculation",
        "tokens",
        "verified",
    )

    def __init__(self, id_: int, slot: int, tokens: list[int], sampler: Sampler) -> None:
        self.id = id_
        self.slot = slot
        self.tokens = tokens
        self.sampler = sampler
        self.computed = 0
        self.cached = 0
        self.cells: list[
            int
        ] = []  # one number per computed token; shared cells have the same number
        self.row = 0
        self.epoch = -1  # the decode whose output ``row`` holds the logits after tokens[:computed]
        self.script: Script | None = None
        self.speculation: Speculation | None = None
        self.verified: list[Verified] = []  # settled, and not yet reported

    @property
    def pending(self) -> int:
        """Tokens queued and not yet computed."""
        return len(self.tokens) - self.computed


class LlamaSession:
    """One model in memory with a context of several sequences; used from one thread at a time.

    Closed sequences stay in the cache as prefix donors until their slot or their cells are needed;
    the least recently closed one is evicted first.
    """

    def __init__(
        self, model: Model, context: Context, facts: ModelFacts, template: ChatTemplate
    ) -> None:
        self._model = model
        self._context = context
        self._facts = facts
        self._template = template
        self._special = SpecialTokens(model.special_tokens())
        self._free_slots = list(range(context.options.sequences))[::-1]
        self._live: dict[int, LlamaSequence] = {}
        self._donors: list[LlamaSequence] = []  # closed, oldest first
        self._next_id = 0
        self._next_cell = 0
        self._epoch = 0
        self._log_sum = LogSum(context.vocabulary)
        self._drafts = DraftVerifier(
            Speculator(BatchCost(GPU_CURVE if model.offloaded else CPU_CURVE)),
            context,
            facts.context_tokens,
            refuse_speculation(model, context.options),
        )

    @property
    def facts(self) -> ModelFacts:
        """Properties of the model that reasoning may use."""
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
        held: set[int] = set()
        for sequence in self._live.values():
            held.update(sequence.cells)
        return self._context.capacity - len(held)

    @property
    def free_sequences(self) -> int:
        """Number of sequences that can still be opened or forked."""
        return len(self._free_slots) + len(self._donors)

    def render(self, messages: Sequence[Message], *, thinking: bool | None = None) -> str:
        """Render the prompt up to and including the assistant's header.

        Stand-ins replace the characters of special tokens in the messages, so that only what the
        template writes becomes one; :meth:`tokenize` puts the characters back.
        """
        switch = self._facts.thinking_switch
        variables = {} if thinking is None or switch is None else {switch: thinking}

        def render(conceal: Callable[[str], str]) -> str:
            concealed = [replace(each, content=conceal(each.content)) for each in messages]
            return self._template.render(concealed, variables)

        text = render(self._special.conceal)
        if any(self._special.has_edges(message.content) for message in messages):
            # A template could join parts of a message to a special token.
            safe = render(self._special.conceal_edges)
            if self._special.written(safe) != self._special.written(text):
                return safe
        return text

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
        self, tokens: Sequence[int], sampling: Sampling, script: Sequence[int] | None = None
    ) -> LlamaSequence:
        """Open a sequence, reusing the longest common token prefix in the cache.

        All other closed sequences are evicted: the cells they hold would slow down the attention
        of each of its tokens.

        Args:
            tokens: Its first tokens, at least one.
            sampling: How to sample.
            script: Tokens to draw one after another, whatever the logits say; None draws freely.

        Raises:
            ContextOverflow: The tokens do not fit into the context.
            EngineFailed: The context has no sequence left.
        """
        if not tokens:
            raise ValueError("a sequence needs at least one token")
        if len(tokens) > self._facts.context_tokens:
            raise ContextOverflow(len(tokens), self._facts.context_tokens, 0)
        new = list(tokens)
        donors = {s.slot: s for s in (*self._live.values(), *self._donors)}
        reuse = choose_reuse(
            [
                Donor(s.slot, s.tokens[: s.computed], s.id not in self._live)
                for s in donors.values()
            ],
            new,
            whole_only=self._model.recurrent or self._windowed,
            free_slots=len(self._free_slots),
        )
        for donor in list(self._donors):
            if reuse is None or donor.slot != reuse.donor.slot:
                self._evict(donor)
        if reuse is None:
            sequence = self._create(self._take_slot(), new, sampling)
        else:
            sequence = self._reuse(reuse, donors[reuse.donor.slot], new, sampling)
        if script is not None:
            sequence.script = Script(len(new), tuple(script))
        self._live[sequence.id] = sequence
        return sequence

    def _reuse(
        self, reuse: Reuse, donor: LlamaSequence, tokens: list[int], sampling: Sampling
    ) -> LlamaSequence:
        length = reuse.length
        if reuse.take_over:
            self._donors.remove(donor)
            if length < donor.computed and not self._context.remove(donor.slot, length):
                self._context.remove(donor.slot, 0)  # no partial removal: compute all of it
                length = 0
            sequence = self._create(donor.slot, tokens, sampling)
        else:
            sequence = self._create(self._take_slot(), tokens, sampling)
            end = -1 if length == donor.computed else length
            self._context.copy(donor.slot, sequence.slot, end)
        sequence.computed = sequence.cached = length
        sequence.cells = donor.cells[:length]
        return sequence

    def fork(self, sequence: TokenSequence, sampling: Sampling) -> LlamaSequence:
        """Fork a sequence: computed tokens are shared, queued tokens and a script are copied."""
        parent = self._find(sequence)
        self._drop_draft(parent)
        child = self._create(self._take_slot(), list(parent.tokens), sampling)
        child.script = parent.script
        if parent.computed:
            self._context.copy(parent.slot, child.slot)
        child.computed = child.cached = parent.computed
        child.cells = list(parent.cells)
        child.row, child.epoch = parent.row, parent.epoch
        self._live[child.id] = child
        return child

    def extend(self, sequence: TokenSequence, tokens: Sequence[int]) -> None:
        """Queue tokens that the model did not draw (a hand-over sentence, a probe)."""
        own = self._find(sequence)
        self._drop_draft(own)
        own.tokens.extend(tokens)

    def rollback(self, sequence: TokenSequence, count: int) -> bool:
        """Remove the last ``count`` tokens; False if the model does not support partial removal."""
        own = self._find(sequence)
        keep = len(own.tokens) - count
        if count < 0 or keep < 0:
            raise ValueError(f"cannot remove {count} of {len(own.tokens)} tokens")
        self._drop_draft(own)
        if keep < own.computed and not self._truncate(own, keep):
            return False
        del own.tokens[keep:]
        if own.speculation is not None and own.speculation.index is not None:
            own.speculation.index.truncate(keep)
        return True

    def _truncate(self, sequence: LlamaSequence, keep: int) -> bool:
        if (self._windowed and keep > 0) or not self._context.remove(sequence.slot, keep):
            return False
        sequence.computed = keep
        del sequence.cells[keep:]
        sequence.epoch = -1
        return True

    @property
    def _windowed(self) -> bool:
        """Whether tokens outside the sliding window are dropped, which rules out a rollback."""
        return self._model.sliding_window > 0 and not self._context.options.full_window

    def step(self, sequences: Sequence[TokenSequence], *, draw: bool = True) -> Step:
        """Compute one batch of queued tokens, and draw a token for each queue that became empty.

        Single tokens are computed first, then prompts in the given order, up to the size of a
        batch; the remaining tokens wait for the next step. A sequence with an empty queue draws
        again from its last logits, or recomputes its last token if they were overwritten. Without
        ``draw`` nothing is drawn, and ``logprobs`` works for the sequences whose queue is empty.

        Raises:
            ContextOverflow: A sequence has outgrown the context.
            CacheFull: The open sequences fill the cache.
            EngineFailed: llama.cpp failed.
        """
        own = [self._find(sequence) for sequence in sequences]
        ready = [s for s in own if s.computed == len(s.tokens) and s.epoch == self._epoch]
        sampled = [self._draw(s) for s in ready] if draw else []
        known = {s.id for s in ready}
        plan = self._plan([s for s in own if s.id not in known])
        if plan:
            self._drop_draft()  # the batch overwrites the logits of its rows
            self._drafts.plan(plan, alone=draw and len(own) == 1)
        start_ns = time.monotonic_ns()
        plan = self._decode(plan) if plan else plan
        end_ns = time.monotonic_ns()
        if plan:
            self._drafts.learn(plan, start_ns, end_ns)
        for sequence, count in plan:
            sequence.computed += count
            sequence.cells.extend(range(self._next_cell, self._next_cell + count))
            self._next_cell += count
            if sequence.computed == len(sequence.tokens):
                sequence.epoch = self._epoch
                if draw:
                    sampled.append(self._draw(sequence))
        computed = {sequence.id: count for sequence, count in plan}
        verified = tuple(event for s in own for event in take_verified(s))
        return Step(start_ns, end_ns, computed, tuple(sampled), verified)

    def _plan(self, sequences: Sequence[LlamaSequence]) -> list[tuple[LlamaSequence, int]]:
        """Plan how many queued tokens of which sequence this batch computes."""
        room = self._context.batch.capacity
        plan: list[tuple[LlamaSequence, int]] = []
        waiting: list[LlamaSequence] = []
        for sequence in sequences:
            length = len(sequence.tokens)
            if length > self._facts.context_tokens:
                raise ContextOverflow(length, self._facts.context_tokens, 0)
            if sequence.computed == length:
                self._requeue_last(sequence)
            if length - sequence.computed == 1:
                if room:
                    plan.append((sequence, 1))
                    room -= 1
            else:
                waiting.append(sequence)
        for sequence in waiting:
            count = min(sequence.pending, room)
            if count:
                plan.append((sequence, count))
                room -= count
        return plan

    def _requeue_last(self, sequence: LlamaSequence) -> None:
        if not self._truncate(sequence, len(sequence.tokens) - 1):
            self._truncate(sequence, 0)  # no partial removal: recompute all of it

    def _decode(self, plan: list[tuple[LlamaSequence, int]]) -> list[tuple[LlamaSequence, int]]:
        """Decode the plan, or as much of it as fits after every donor was evicted."""
        while True:
            self._fill(plan)
            self._epoch += 1
            code = self._context.decode()
            if code == DECODED:
                return plan
            if code != NO_ROOM:
                self._restore(plan)
                raise EngineFailed(
                    f"llama.cpp failed to decode a batch (code {code})",
                    "if memory ran out, lower `context` or `gpu_layers` of the model in "
                    "models.yaml; see llama.log in ETUI_HOME/logs",
                )
            if self._drafts.verification is not None:
                self._drafts.forget()  # a draft is worth less than anything in the cache
            elif self._donors:
                self._evict(self._donors[0])
            elif len(plan) > 1:
                plan = plan[: len(plan) // 2]
            elif plan[0][1] > 1:
                plan = [(plan[0][0], plan[0][1] // 2)]
            else:
                raise CacheFull(self._context.capacity, len(self._live))

    def _fill(self, plan: Sequence[tuple[LlamaSequence, int]]) -> None:
        batch = self._context.batch
        batch.clear()
        for sequence, count in plan:
            at = sequence.computed
            at_end = at + count == len(sequence.tokens)
            queued = sequence.tokens[at : at + count]
            if (verification := self._drafts.verification) is not None:
                batch.add(
                    sequence.slot, [*queued, *verification.proposal.tokens], at, with_logits=True
                )
                sequence.row = batch.want_logits(verification.rows)
                return
            sequence.row = batch.add(sequence.slot, queued, at, with_logits=at_end)

    def _restore(self, plan: Sequence[tuple[LlamaSequence, int]]) -> None:
        # A fatal error leaves parts of the batch in the cache.
        self._drafts.forget()
        for sequence, _ in plan:
            self._context.remove(sequence.slot, sequence.computed)
            sequence.epoch = -1

    def _draw(self, sequence: LlamaSequence) -> Sampled:
        logits = self._context.logits(sequence.row)
        sampler = sequence.sampler
        if sampler.greedy:
            token = int(logits.argmax())
        else:
            token = sampler.draw(self._context.handle, sequence.row, sequence.tokens)
        # The draw is made in either case: a scripted token costs as much as any other.
        scripted = sequence.script.find(len(sequence.tokens)) if sequence.script else None
        token = token if scripted is None else scripted
        piece, ends = self._model.piece(token)
        ends = ends and scripted is None
        if not ends:
            sequence.tokens.append(token)
        logprob = float(logits[token]) - self._log_sum(logits)
        if self._drafts.verification is not None:
            self._judge(sequence, token, ends=ends)
        return Sampled(sequence.id, token, piece, logprob, ends)

    def logprobs(self, sequence: TokenSequence, tokens: Sequence[int]) -> list[float]:
        """Return log-probabilities (nats, full softmax) of next tokens after the last step.

        Raises:
            ValueError: The sequence was not in the last batch, so its logits are overwritten.
        """
        own = self._find(sequence)
        if own.epoch != self._epoch:
            raise ValueError(
                "the logits were overwritten: read them right after the sequence's step"
            )
        logits = self._context.logits(own.row)
        total = self._log_sum(logits)
        return [float(logits[token]) - total for token in tokens]

    def close(self, sequence: TokenSequence, *, keep: bool = True) -> None:
        """Close a sequence; with ``keep`` its tokens stay cached as a prefix for later ones."""
        own = self._live.get(sequence.id)
        if own is None:
            return
        self._drop_draft(own)
        self._drafts.stop(own)
        del self._live[own.id]
        own.sampler.free()
        del own.tokens[own.computed :]
        if keep and own.computed:
            self._donors.append(own)
            if len(self._donors) > self._context.options.donors:
                self._evict(self._donors[0])
        else:
            self._release(own)

    def forget(self) -> None:
        """Forget closed sequences and what was drafted for any, so that nothing is reused."""
        while self._donors:
            self._evict(self._donors[0])
        self.speculator.forget()

    def free(self) -> None:
        """Free the context and the model."""
        for sequence in list(self._live.values()):
            self.close(sequence, keep=False)
        self.speculator.free()
        self._context.free()
        self._model.free()

    def speculate(self, sequence: TokenSequence, method: Speculate) -> str:
        """Let steps of this sequence alone verify drafted tokens; what it draws is unchanged.

        Exactness is argued in :mod:`etui.engine.speculation.verify`.

        Returns:
            Why there will be no speculation; empty if there will be.
        """
        return self._drafts.start(self._find(sequence), method)

    def settle(self, sequence: TokenSequence) -> tuple[Verified, ...]:
        """Drop the drafted tokens not drawn yet; return the verifications not yet reported."""
        own = self._find(sequence)
        self._drop_draft(own)
        return take_verified(own)

    def _judge(self, sequence: LlamaSequence, token: int, *, ends: bool) -> None:
        self._next_cell += self._drafts.judge(sequence, token, self._next_cell, ends=ends)

    def _drop_draft(self, sequence: LlamaSequence | None = None) -> None:
        self._drafts.drop(sequence)

    def _find(self, sequence: TokenSequence) -> LlamaSequence:
        own = self._live.get(sequence.id)
        if own is None:
            raise ValueError(f"sequence {sequence.id} is closed")
        return own

    def _create(self, slot: int, tokens: list[int], sampling: Sampling) -> LlamaSequence:
        self._next_id += 1
        sampler = Sampler(
            self._context.api, sampling, self._context.vocabulary, self._facts.context_tokens
        )
        return LlamaSequence(self._next_id, slot, tokens, sampler)

    def _take_slot(self) -> int:
        """Take a free slot, evicting the oldest donor if there is none."""
        if not self._free_slots:
            if not self._donors:
                raise EngineFailed(
                    f"{len(self._live)} sequences are open, the maximum of this context",
                    "lower `batch` of the arm",
                )
            self._evict(self._donors[0])
        return self._free_slots.pop()

    def _evict(self, donor: LlamaSequence) -> None:
        self._donors.remove(donor)
        self._release(donor)

    def _release(self, sequence: LlamaSequence) -> None:
        self._context.remove(sequence.slot, 0)
        self._free_slots.append(sequence.slot)
