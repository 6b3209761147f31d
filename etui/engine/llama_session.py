"""Session over llama.cpp: many sequences in one context, computed in mixed batches."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from etui.arm import Sampling, Speculate
from etui.engine.chat_prompt import ChatTemplate, ModelText
from etui.engine.compute_thread import StepClock
from etui.engine.context import DECODED, NO_ROOM, Context
from etui.engine.embedding import Embedder
from etui.engine.kv_store import KvStore, SequenceKeeper
from etui.engine.model import Model
from etui.engine.pictures import PictureReader, has_pictures, is_of_picture
from etui.engine.placement_speeds import DecodeClock
from etui.engine.sampler import Constraint, Constraints, Script
from etui.engine.sequence_cache import LlamaSequence, SequenceCache
from etui.engine.session import (
    NO_TOKEN,
    LikelyToken,
    ModelFacts,
    OutputGrammar,
    PromptScores,
    RecalledSequence,
    Sampled,
    Step,
    TokenSequence,
)
from etui.engine.speculation.batch_cost import CPU_CURVE, GPU_CURVE, BatchCost
from etui.engine.speculation.draft_verifier import DraftVerifier, refuse_speculation
from etui.engine.speculation.speculator import Speculator
from etui.errors import CacheFull, ContextOverflow, EngineFailed
from etui.events import PictureEncoded, TokenLogprob, Verified

SHORT_QUEUE = 16
"""Queues up to this length are computed before prompts: those of a hand-over, or of a probe."""

PROMPT_TURN_NS = 400_000_000
"""Time that prompts take in one turn before those that decode get theirs; see ``Turn``."""

Turn = Literal["mixed", "prompts", "tokens"]
"""What a batch computes while some sequences decode and others have a prompt: both, or one of them.

In mixed batches a CPU with flash attention computes for each 64 tokens of a prompt also the cells
of all that decode, which takes a third longer (2.0 against 3.0 ms a row with seven of them)."""

_TAIL_TOKENS = 64
"""Tokens whose text shows where a recalled answer ends."""

BatchPlan = list[tuple[LlamaSequence, int]]
"""Sequences, and how many of their queued tokens a batch computes."""


def plan_batch(
    sequences: Sequence[LlamaSequence],
    room: int,
    *,
    prompt_limit: int | None = None,
    decoding: bool = False,
    turn: Turn = "mixed",
) -> BatchPlan:
    """Plan one batch: single tokens first, then longer queues; those that have to wait are missing.

    Prompts are computed one after another: in turn, all of them would end when the last one does.

    Args:
        sequences: Those with queued tokens, in the order in which they are served.
        room: Maximum number of tokens of the batch.
        prompt_limit: Maximum number of tokens from longer queues while another sequence decodes,
            so that its next token waits for one chunk of a prompt and not for all of it. Short
            queues are then served first, and prompts in the order in which they were opened. None
            sets no limit and keeps the given order.
        decoding: Whether a sequence that is not among them decodes, too.
        turn: Whose turn it is if there is a limit, and both single tokens and prompts wait.
    """
    plan = [(sequence, 1) for sequence in sequences if sequence.pending == 1][:room]
    longer = [sequence for sequence in sequences if sequence.pending > 1]
    limit = room
    if prompt_limit is not None:
        longer.sort(key=lambda each: (each.pending > SHORT_QUEUE, each.id))
        if turn == "prompts" and longer and longer[-1].pending > SHORT_QUEUE:
            plan = []
        elif plan and turn == "tokens":
            longer = [each for each in longer if each.pending <= SHORT_QUEUE]
        elif plan or decoding:
            limit = prompt_limit
    room = min(room - len(plan), limit)
    for sequence in longer:
        count = min(sequence.pending, room)
        if count:
            plan.append((sequence, count))
            room -= count
    return plan


class LlamaSession(ModelText):
    """One model in memory, as :class:`etui.engine.session.Session` says; for one thread at a time.

    Closed sequences stay in the cache as prefix donors until their slot or their cells are needed.

    Attributes:
        options: Settings of the context, on which results depend in addition to the model.
        compute: The thread that computes its batches.
        cache: The context, whose hidden states a head that drafts reads.
        threads: The thread counts, which may follow the load of the machine.
        vocabulary: The model as a vocabulary, with which that of a draft model must agree.
        drafts: The drafts of the sequences, and who makes them.
        embedder: Computes vectors with the same weights.
        pictures: Reads pictures; None without a projector.
        planned: Number of tokens in the last batch by sequence id, even if the batch failed.
    """

    def __init__(
        self,
        model: Model,
        context: Context,
        facts: ModelFacts,
        template: ChatTemplate,
        pictures: PictureReader | None = None,
    ) -> None:
        super().__init__(model, facts, template)
        self.pictures = pictures
        self.planned: Mapping[int, int] = {}
        self.decode_clock = DecodeClock()
        self.steps = StepClock()
        self.options = context.options
        self.compute = context.compute
        self.cache = self._context = context
        self.threads = context.threads
        self.vocabulary = model
        self._constraints = Constraints(context.api, model)
        self._exps: NDArray[np.float32] | None = None  # of a whole vocabulary, made once
        self._takes_turns = False  # prompts and single tokens, instead of mixed batches
        self._prompts_ns = 0  # time of their turn so far
        self._epoch = 0  # number of decodes so far; each overwrites the logits of the one before
        self.drafts = DraftVerifier(
            Speculator(BatchCost(GPU_CURVE if model.offloaded else CPU_CURVE)),
            context,
            facts.context_tokens,
            refuse_speculation(model),
        )
        self.speculator = self.drafts.speculator
        self.embedder = Embedder(model, self._special, facts.context_tokens, context)
        self._sequences = SequenceCache(context, model, facts.context_tokens, self.drafts.drop)
        self.facts = replace(facts, cache_limit=self._sequences.checkpoints.reason)

    @property
    def free_tokens(self) -> int:
        """Cells that no open sequence holds; shared prefixes count once."""
        return self._sequences.free_tokens

    @property
    def free_sequences(self) -> int:
        """Number of sequences that can still be opened or forked."""
        return self._sequences.free_sequences

    def count_cells(self, sequences: Iterable[TokenSequence]) -> int:
        """Count the cells that sequences hold; shared ones count once."""
        return self._sequences.count_cells(sequences)

    def share_among_clients(self) -> None:
        """Keep the prefixes of several clients, and compute one that requests share only once.

        On a CPU their prompts and their decoding take turns, see ``Turn``.
        """
        self._takes_turns = not self._model.offloaded
        self._sequences.serve_several_clients(self._context.options.sequences // 2)

    def open(
        self,
        tokens: Sequence[int],
        sampling: Sampling,
        script: Sequence[int] | None = None,
        scores: PromptScores | None = None,
        *,
        owner: str = "",
        label: str = "",
    ) -> LlamaSequence:
        """Open a sequence, reusing the longest common token prefix in the cache.

        Args:
            owner: Whose it is: it reuses nothing of other owners.
            label: Name under which ``recall`` finds it and its forks; empty for none.

        Raises:
            ContextOverflow: The tokens do not fit into the context.
            EngineFailed: The context has no sequence left.
        """
        if not tokens:
            raise ValueError("a sequence needs at least one token")
        if len(tokens) > self.facts.context_tokens:
            raise ContextOverflow(len(tokens), self.facts.context_tokens, 0)
        if scores is not None:
            scores.found[:] = [self._score(tokens[0], None, ())]
        sequence = self._sequences.open(list(tokens), sampling, owner, label, scores)
        sequence.has_pictures = has_pictures(tokens)
        if script is not None:
            sequence.script = Script(len(tokens), tuple(script))
        return sequence

    def fork(self, sequence: TokenSequence, sampling: Sampling) -> LlamaSequence:
        """Fork a sequence, with what is computed, queued and scripted."""
        parent = self._sequences.find(sequence)
        self.drafts.drop(parent)
        child = self._sequences.fork(parent, sampling)
        child.has_pictures = parent.has_pictures
        return child

    def extend(self, sequence: TokenSequence, tokens: Sequence[int]) -> None:
        """Queue tokens that the model did not draw."""
        own = self._sequences.find(sequence)
        self.drafts.drop(own)
        own.tokens.extend(tokens)

    def rollback(self, sequence: TokenSequence, count: int) -> bool:
        """Remove the last tokens."""
        own = self._sequences.find(sequence)
        keep = len(own.tokens) - count
        if count < 0 or keep < 0:
            raise ValueError(f"cannot remove {count} of {len(own.tokens)} tokens")
        self.drafts.drop(own)
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

        It runs in the compute thread, from whichever thread it is called.

        Args:
            wanted: The sequences, and whether each draws.
            prompt_limit: As in :func:`plan_batch`.
        """
        return self.compute.run(self._step_mixed, wanted, prompt_limit)

    def _step_mixed(
        self, wanted: Sequence[tuple[TokenSequence, bool]], prompt_limit: int | None
    ) -> Step:
        own = [(self._sequences.find(sequence), draw) for sequence, draw in wanted]
        draws = {s.id: draw for s, draw in own}
        ready = [s for s, _ in own if s.epoch == self._epoch and s.computed == len(s.tokens)]
        sampled = [self._draw(s) for s in ready if draws[s.id]]
        rest = [s for s, _ in own if s not in ready]
        rest = [s for s in rest if not self._sequences.waits(s, draws)]
        pictured = (each for each in rest if each.has_pictures and each.pending)
        shown = next((s for s in pictured if is_of_picture(s.tokens[s.computed])), None)
        plan = self._plan(rest, prompt_limit, decoding=bool(ready)) if shown is None else []
        if shown is not None and self.pictures is not None:
            plan = [(shown, self.pictures.count(shown.tokens[shown.computed]))]
        self.planned = {s.id: count for s, count in plan}
        kept = []
        if plan:
            # The batch overwrites the logits of its rows.
            kept = [
                (s, self._context.logits(s.row).copy()) for s in ready if s.epoch == self._epoch
            ]
            self.drafts.drop()
            self.drafts.plan(plan, alone=len(own) == 1 and own[0][1])
        start_ns = time.monotonic_ns()
        # Without room for it, the next step raises CacheFull: drawn tokens must not get lost.
        if shown is None:
            plan = self._decode(plan, may_wait=bool(sampled))
        elif not self._decode_picture(shown, may_wait=bool(sampled)):
            plan = []
        end_ns = time.monotonic_ns()
        for sequence, logits in kept:
            sequence.kept_logits = (self._epoch, logits)
        if plan:
            is_prompt = max(count for _, count in plan) > SHORT_QUEUE
            self._prompts_ns = self._prompts_ns + end_ns - start_ns if is_prompt else 0
            if [count for _, count in plan] == [1] and self.drafts.verification is None:
                self.decode_clock.add(end_ns - start_ns)
            self.drafts.learn(plan, start_ns, end_ns)
        for sequence, count in plan:
            if sequence.scores is not None:
                self._add_scores(sequence, sequence.scores, count)
            self._sequences.add_computed(sequence, count)
            if sequence.computed == len(sequence.tokens):
                sequence.epoch = self._epoch
                if draws[sequence.id]:
                    sampled.append(self._draw(sequence))
        computed = {sequence.id: count for sequence, count in plan}
        verified = [(event, s.id) for s, _ in own for event in s.take_verified()]
        events, ids = zip(*verified, strict=True) if verified else ((), ())
        return Step(start_ns, end_ns, computed, tuple(sampled), events, ids)

    def _plan(
        self, sequences: Sequence[LlamaSequence], prompt_limit: int | None, *, decoding: bool
    ) -> BatchPlan:
        """Plan how many queued tokens of which sequence this batch computes."""
        for sequence in sequences:
            length = len(sequence.tokens)
            if length > self.facts.context_tokens:
                raise ContextOverflow(length, self.facts.context_tokens, 0)
            if sequence.computed == length:
                self._sequences.checkpoints.cut(sequence, length - 1)  # for its logits
        turn: Turn = "mixed"
        if self._takes_turns:
            turn = "prompts" if self._prompts_ns < PROMPT_TURN_NS else "tokens"
        plan = plan_batch(
            sequences,
            self._context.batch.capacity,
            prompt_limit=prompt_limit,
            decoding=decoding,
            turn=turn,
        )
        limit = self._sequences.checkpoints.limit
        plan = [(each, self._count_text(each, limit(each, count))) for each, count in plan]
        spare = self._context.options.most_outputs - len(plan)
        for index, (each, count) in enumerate(plan):
            if each.scores is not None and count > 1:  # each of its tokens has logits
                plan[index] = each, min(count, 1 + spare)
                spare -= plan[index][1] - 1
        return plan

    def encode(
        self,
        sequence: TokenSequence,
        cancelled: Callable[[], bool],
        run: Callable[[Callable[[], PictureEncoded], int], PictureEncoded] | None = None,
    ) -> Iterator[PictureEncoded]:
        """Encode the pictures among the queued tokens, part by part, unless ``cancelled``.

        ``run`` runs the encoding of so many tokens in the compute thread, and books its time.
        """
        own, reader = self._sequences.find(sequence), self.pictures
        assert reader is not None

        def encode(token: int) -> PictureEncoded:
            start_ns = time.monotonic_ns()
            count = reader.encode(token)
            return PictureEncoded(start_ns, time.monotonic_ns(), count)

        for token in list(reader.find_raw(own.tokens[own.computed :])):
            if cancelled():
                return
            work = partial(encode, token)
            yield self.compute.run(work) if run is None else run(work, reader.count(token))

    def _count_text(self, sequence: LlamaSequence, count: int) -> int:
        """Limit the tokens of a batch, so that it ends before the next picture."""
        if not sequence.has_pictures:
            return count
        queued = sequence.tokens[sequence.computed : sequence.computed + count]
        return next((at for at, token in enumerate(queued) if is_of_picture(token)), count)

    def _decode_picture(self, sequence: LlamaSequence, *, may_wait: bool) -> bool:
        """Decode the next part of a picture; False if the next step has to try it again.

        Raises:
            CacheFull, EngineFailed: As :meth:`_decode`.
        """
        assert self.pictures is not None
        self._epoch += 1
        at = sequence.computed
        code = self.pictures.decode(sequence.tokens[at], sequence.slot, at)
        if code == DECODED:
            return True
        self._sequences.checkpoints.recover(sequence)
        if code != NO_ROOM:
            raise EngineFailed(f"llama.cpp failed to decode a picture (code {code})")
        if self._sequences.checkpoints.compact() or self._sequences.evict() or may_wait:
            return False
        raise CacheFull(self._context.capacity, len(self._sequences.live))

    def _decode(self, plan: BatchPlan, *, may_wait: bool) -> BatchPlan:
        """Decode the plan, or as much as fits after every closed sequence was evicted; return that.

        Raises:
            CacheFull: There is no room for a single token.
            EngineFailed: llama.cpp failed; the cache is as before.
        """
        while plan:
            self._fill_batch(plan)
            self._epoch += 1
            code = self._context.decode()
            if code == DECODED:
                return plan
            if code != NO_ROOM:
                self.drafts.forget()
                for sequence, _ in plan:  # a fatal error leaves parts of the batch in the cache
                    self._sequences.checkpoints.recover(sequence)
                raise EngineFailed(
                    f"llama.cpp failed to decode a batch (code {code})",
                    "if memory ran out, lower `context` or `gpu_layers` of the model in "
                    "models.yaml; see llama.log in ETUI_HOME/logs",
                )
            if self.drafts.verification is not None:
                self.drafts.forget()  # a draft is worth less than anything in the cache
            elif self._sequences.checkpoints.compact() or self._sequences.evict():
                continue
            elif len(plan) > 1:
                plan = plan[: len(plan) // 2]
            elif plan[0][1] > 1:
                plan = [(plan[0][0], plan[0][1] // 2)]
            elif may_wait:
                break
            else:
                raise CacheFull(self._context.capacity, len(self._sequences.live))
        return []

    def _fill_batch(self, plan: BatchPlan) -> None:
        batch = self._context.batch
        batch.clear()
        for sequence, count in plan:
            at = sequence.computed
            at_end = at + count == len(sequence.tokens)
            queued = sequence.tokens[at : at + count]
            if (verification := self.drafts.verification) is not None:
                batch.add(sequence.slot, [*queued, *verification.tokens], at, with_logits=True)
                sequence.row = batch.want_logits(verification.rows)
                return
            sequence.row = batch.add(sequence.slot, queued, at, with_logits=at_end)
            if sequence.scores is not None and at + 1 < len(sequence.scores.tokens):
                batch.want_logits(count)

    def _draw(self, sequence: LlamaSequence) -> Sampled:
        """Draw the next token of a sequence, and queue it unless it ends the answer."""
        logits = self._context.logits(sequence.row)
        sampler, tokens, constraint = sequence.sampler, sequence.tokens, sequence.constraint
        token: int | None
        if constraint is not None and constraint.follow(tokens):
            with self.steps.time("mask"):
                handle = self._context.handle
                token = constraint.draw(sampler, handle, sequence.row, tokens, logits)
        elif sampler.greedy:
            token = int(logits.argmax())
        else:
            token = sampler.draw(self._context.handle, sequence.row, tokens)
        # The draw is made in either case: a scripted token costs as much as any other.
        scripted = sequence.script.find(len(tokens)) if sequence.script else None
        token = token if scripted is None else scripted
        if token is None:
            fault = "" if constraint is None else constraint.fault
            return Sampled(sequence.id, NO_TOKEN, b"", 0.0, ends=True, stuck=True, fault=fault)
        piece, ends = self._model.piece(token)
        ends = ends and scripted is None
        if not ends:
            tokens.append(token)
        logprob = float(logits[token]) - self._log_sum(logits)
        if self.drafts.verification is not None:
            self._sequences.next_cell += self.drafts.judge(
                sequence, token, self._sequences.next_cell, ends=ends
            )
        return Sampled(sequence.id, token, piece, logprob, ends)

    def _log_sum(self, logits: NDArray[np.float32]) -> float:
        """Return the log of the sum of exp(logits)."""
        most = logits.max()  # subtracted, so that nothing overflows
        self._exps = np.subtract(logits, most, out=self._exps)
        np.exp(self._exps, out=self._exps)
        return float(most) + math.log(float(self._exps.sum()))

    def _read_logits(self, sequence: TokenSequence) -> NDArray[np.float32]:
        own = self._sequences.find(sequence)
        if own.epoch == self._epoch:
            return self._context.logits(own.row)
        if own.kept_logits is not None and own.kept_logits[0] == self._epoch:
            return own.kept_logits[1]
        raise ValueError("the logits were overwritten: read them right after the sequence's step")

    def logprobs(self, sequence: TokenSequence, tokens: Sequence[int]) -> list[float]:
        """Return log-probabilities of next tokens after the last step."""
        logits = self._read_logits(sequence)
        total = self._log_sum(logits)
        return [float(logits[token]) - total for token in tokens]

    def top_logprobs(self, sequence: TokenSequence, count: int) -> tuple[LikelyToken, ...]:
        """Return the most likely tokens where the last step drew a token."""
        logits = self._read_logits(sequence)
        return self._find_likely(logits, count, self._log_sum(logits)) if count > 0 else ()

    def _find_likely(
        self, logits: NDArray[np.float32], count: int, log_sum: float
    ) -> tuple[LikelyToken, ...]:
        count = min(count, len(logits))
        likely = np.argpartition(logits, -count)[-count:]
        likely = likely[np.lexsort((likely, -logits[likely]))]  # of equal ones the lower number
        return tuple(
            LikelyToken(token, self._read_piece(token), float(logits[token]) - log_sum)
            for token in map(int, likely)
        )

    def _read_piece(self, token: int) -> bytes:
        """Return the bytes of a token; those of its name for a control token."""
        return self._model.piece(token)[0] or self._model.token_text(token).encode()

    def _add_scores(self, sequence: LlamaSequence, scores: PromptScores, count: int) -> None:
        """Add the scores of the tokens that follow on those of the last batch."""
        first = sequence.computed + 1
        del scores.found[first:]  # of a batch that had to be computed again
        for row, token in enumerate(scores.tokens[first : first + count], sequence.row - count + 1):
            logits = self._context.logits(row)
            log_sum, most = self._log_sum(logits), scores.alternatives
            likely = self._find_likely(logits, most, log_sum) if most else ()
            scores.found.append(self._score(token, float(logits[token]) - log_sum, likely))

    def _score(
        self, token: int, logprob: float | None, likely: Sequence[LikelyToken]
    ) -> TokenLogprob:
        top = tuple((tuple(each.piece), each.logprob) for each in likely)
        return TokenLogprob(time.monotonic_ns(), tuple(self._read_piece(token)), logprob, top)

    def constrain(self, sequence: TokenSequence, grammar: OutputGrammar) -> None:
        """Let steps draw only tokens that the grammar allows."""
        self.keep_to(sequence, self.make_constraint(sequence, grammar))

    def make_constraint(self, sequence: TokenSequence, grammar: OutputGrammar) -> Constraint:
        """Make the constraint of what a sequence draws next; a running batch does not matter."""
        with self.steps.time("grammar"):
            return self._constraints.make(grammar, len(sequence.tokens))

    def keep_to(self, sequence: TokenSequence, constraint: Constraint) -> None:
        """Let steps draw only tokens that a constraint allows."""
        own = self._sequences.find(sequence)
        self._stop(own)
        own.speculation, own.constraint = None, constraint

    def _stop(self, own: LlamaSequence) -> None:
        """End the speculation and the grammar of a sequence."""
        self.drafts.drop(own)
        self.drafts.stop(own)
        if own.constraint is not None:
            own.constraint.free()

    def close(self, sequence: TokenSequence, *, keep: bool = True) -> None:
        """Close a sequence; with ``keep`` its tokens stay cached as a prefix."""
        own = self._sequences.live.get(sequence.id)
        if own is not None:
            self._stop(own)
            own.sampler.free()
            self._sequences.close(own, keep=keep)

    def recall(self, label: str, owner: str = "") -> RecalledSequence | None:
        """Return the latest closed sequence with this label and owner; None if it was evicted."""
        donor = self._sequences.find_closed(label, owner)
        if donor is None:
            return None
        tokens = (*donor.tokens, *donor.rest)
        pieces = [self._model.piece(token)[0] for token in tokens[-_TAIL_TOKENS:]]
        return RecalledSequence(tokens, b"".join(pieces))

    def keep_in(self, store: KvStore, key: str) -> None:
        """Save what leaves the context in a store, and bring it back from there.

        Args:
            key: What saved states fit: model, build and settings.
        """
        whole = bool(self._sequences.checkpoints.kind)
        self._sequences.keeper = SequenceKeeper(
            store, key, self._context, whole=whole, weight_bytes=self._model.size_bytes
        )

    def set_price(self, joules_per_prompt_token: float) -> None:
        """Set what computing a token again costs, by which saved sequences are ranked."""
        if self._sequences.keeper is not None and joules_per_prompt_token > 0:
            self._sequences.keeper.joules_per_token = joules_per_prompt_token

    def forget(self) -> None:
        """Forget closed sequences and what was drafted for any; from now on nothing is saved."""
        self._sequences.keeper = None
        while self._sequences.evict():
            pass
        self.speculator.forget()

    def free(self) -> None:
        """Free the context and the model, when the running batch has ended."""
        self.compute.run(self._free)

    def _free(self) -> None:
        for sequence in list(self._sequences.live.values()):
            self.close(sequence, keep=False)
        while self._sequences.evict():  # what it saves
            pass
        self.speculator.free()
        self.embedder.free()
        if self.pictures is not None:
            self.pictures.free()
        self._context.free()
        self._model.free()

    def speculate(self, sequence: TokenSequence, method: Speculate) -> str:
        """Let steps of this sequence alone verify drafted tokens."""
        own = self._sequences.find(sequence)
        if own.has_pictures:
            return "the prompt has pictures"
        if own.constraint is not None:
            return "a grammar constrains the answer"
        return self.drafts.start(own, method)

    def settle(self, sequence: TokenSequence) -> tuple[Verified, ...]:
        """Drop the drafted tokens not drawn yet."""
        own = self._sequences.find(sequence)
        self.drafts.drop(own)
        return own.take_verified()
