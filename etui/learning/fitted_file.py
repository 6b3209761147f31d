"""``NAME.fitted.json``: the accuracy of a policy's arms, fitted from graded answers.

The file is small, plain JSON, written by ``etui policy fit`` next to the policy. It contains no
text of any question: words are hashed into buckets.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from binascii import Error
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from etui.errors import InvalidFile, Problem
from etui.learning.features import FEATURE_NAMES, LEAF, load_classifier
from etui.routing.text_measures import BUCKETS

FITTED_VERSION: Final = 3
READABLE_VERSIONS = (1, 2, 3)
"""Version 1 has no joint model and no fields; 1 and 2 have regressions, which are ignored."""
MOST_BYTES = 20_000_000
Number = Annotated[float, Field(allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Bucket = Annotated[int, Field(ge=0, lt=BUCKETS)]
Row = tuple[Number, ...]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Packed(_Part):
    """An array of numbers of one type, in base64."""

    type: Literal["B", "h", "H", "I", "f"]
    """Type code of numpy: ``B`` a byte, ``h`` and ``H`` 16 bits with and without sign, ``I``
    32 bits without, ``f`` single precision."""
    data: str  # The bytes, little-endian

    @model_validator(mode="after")
    def _check_data(self) -> Self:
        self.unpack()
        return self

    def count(self) -> int:
        """Count the numbers."""
        return len(self.unpack())

    def unpack(self) -> Any:
        """Return the numbers as an array; ValueError if the text is not base64 of such numbers."""
        import numpy as np

        try:
            return np.frombuffer(b64decode(self.data, validate=True), np.dtype(f"<{self.type}"))
        except (Error, ValueError):
            raise ValueError("a packed array is damaged") from None


def pack(kind: Literal["B", "h", "H", "I", "f"], raw: bytes) -> Packed:
    """Pack little-endian bytes."""
    return Packed(type=kind, data=b64encode(raw).decode("ascii"))


class JointPart(_Part):
    """The joint model of all arms.

    A forest predicts the mean over the arms and each arm's deviation, times ``stretch``, from
    columns in this order: the features, the components of the words, the logit of the expected rate
    of each arm, the differences to that of the first arm, and the predictions of the ridge
    regression.

    Attributes:
        start, features, band_weights: The ridge regression: its constant, and its weights of
            raw features and of bands, for the mean and each arm.
        component_step, word_step: The sizes of these steps.
        slope, spread: Calibration of the logits: weight of their mean for each arm, and of each
            arm's difference from the mean.
        band_mean, band_spread: The same for the logits of the expected rates.
    """

    arms: tuple[str, ...] = Field(min_length=1)
    bands: tuple[str, ...]
    rates: tuple[Row, ...]  # Shrunken rate of each band and arm
    overall: Row  # Smoothed rate of each arm
    start: Row
    features: tuple[Row, ...]
    band_weights: tuple[Row, ...]
    words: Packed
    """Bucket after bucket, the weights of the components and those of the ridge regression, in
    steps above ``WORD_ZERO``."""
    component_step: Number
    word_step: Number
    roots: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    """Number of the first node of each tree."""
    column: Packed  # The column that each node compares, `LEAF` for a leaf
    threshold: Packed  # A question with at most this value goes on to the next node
    child: Packed
    """The node of the other questions; for a leaf, the number of nodes plus its row in ``values``.
    """
    values: Packed  # The predictions of the leaves, in steps of 1 / `VALUE_STEPS`
    stretch: Number = Field(gt=0)  # Factor of the deviations
    slope: Row
    spread: Number
    band_mean: Number
    band_spread: Number
    offset: Row  # Constant of each arm

    @model_validator(mode="after")
    def _check_shapes(self) -> Self:
        arms, width = len(self.arms), len(self.arms) + 1
        lengths = [
            (self.rates, len(self.bands)),
            (self.overall, arms),
            (self.start, width),
            (self.features, len(FEATURE_NAMES)),
            (self.band_weights, len(self.bands)),
            (self.slope, arms),
            (self.offset, arms),
        ]
        rows = [*self.features, *self.band_weights]
        if any(len(values) != count for values, count in lengths) or any(
            len(row) != width for row in rows
        ):
            raise ValueError("its joint model does not fit its arms and bands")
        if any(len(row) != arms for row in self.rates):
            raise ValueError("its joint model does not fit its arms and bands")
        if self.words.count() % BUCKETS or self.components < 1:
            raise ValueError("its joint model does not fit the words of this etui")
        self._check_forest(len(FEATURE_NAMES) + self.components + 3 * arms)
        return self

    @property
    def components(self) -> int:
        """Number of components of the words."""
        return self.words.count() // BUCKETS - len(self.arms) - 1

    def _check_forest(self, columns: int) -> None:
        """Check that every walk through a tree ends in a leaf: children come after their node."""
        import numpy as np

        column, child = self.column.unpack(), self.child.unpack().astype(np.int64)
        count, width = len(column), len(self.arms) + 1
        values = self.values.count()
        inner = column != LEAF
        valid = (
            count > 0
            and len(child) == self.threshold.count() == count
            and values % width == 0
            and not inner[-1]
            and max(self.roots) < count
            and column[inner].max(initial=0) < columns
            and bool((np.arange(count) < child).all())
            and child[inner].max(initial=0) < count
            and child.max() < count + values // width
            and child[~inner].min() >= count
        )
        if not valid:
            raise ValueError("the trees of its joint model are damaged")


class Sparse(_Part):
    """The buckets whose value is not zero, and their values."""

    at: tuple[Bucket, ...]
    value: tuple[Number, ...]

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        if len(self.at) != len(self.value):
            raise ValueError(f"{len(self.at)} buckets and {len(self.value)} values")
        return self


class Quality(_Part):
    """Quality of the predictions on held-out questions (five folds)."""

    brier: Number  # Mean squared error of p
    brier_rate: Number  # Mean squared error of the plain rate
    ece: Probability  # Expected calibration error over ten bins of equal size
    auc: Probability | None
    """Area under the ROC curve; None if all answers were right, or all wrong."""


class Rate(_Part):
    """Graded answers of one band: the shrunken share that was right, and their number."""

    p: Probability
    n: int = Field(ge=0)


class ConfidenceCurve(_Part):
    """Raw confidence of an answer -> probability that it is right."""

    of: Literal["margin", "confidence"]
    """``margin`` between the first and the second answer, or ``confidence`` of the first."""
    kind: Literal["isotonic", "platt"]
    """``isotonic`` interpolates the knots (x, p); ``platt`` is 1/(1 + exp(-(a*x + b)))."""
    x: tuple[Number, ...] = ()
    p: tuple[Probability, ...] = ()
    a: Number = 0.0
    b: Number = 0.0
    n: int = Field(ge=1)  # Number of answers it was fitted on
    ece: Probability  # Cross-validated calibration error

    @model_validator(mode="after")
    def _check_knots(self) -> Self:
        if self.kind == "isotonic":
            if not self.x or len(self.x) != len(self.p):
                raise ValueError(f"{len(self.x)} knots and {len(self.p)} probabilities")
            if list(self.x) != sorted(self.x) or list(self.p) != sorted(self.p):
                raise ValueError("the knots are not in ascending order")
        return self


class ArmHead(_Part):
    """The fit of one arm: ``n`` graded answers, of which the share ``rate`` was right."""

    model: str | None  # The model that answered; None if the outcomes do not name it
    reasoning: str | None  # The reasoning method; None if the outcomes do not name it
    n: int = Field(ge=1)
    rate: Probability
    rates: dict[str, Rate]  # Band -> shrunken rate
    quality: Quality
    curves: tuple[ConfidenceCurve, ...] = ()
    """Predict the probability that an answer is right from its confidence."""


class Share(_Part):
    """A share of n answers that was right: smoothed, with its interval at 95 %."""

    p: Probability
    low: Probability
    high: Probability
    n: int = Field(ge=0)


class AgreementHead(_Part):
    """How likely arms are right that give the same answer, and each where their answers differ."""

    arms: tuple[str, ...] = Field(min_length=1)
    """Names of the arms; a single one agrees with itself if all of its votes do."""
    models: tuple[str | None, ...]  # The model of each arm; None if the outcomes do not name it
    n: int = Field(ge=1)  # Number of questions that all of them answered
    known: bool
    """Whether their answers are known. From right and wrong alone, arms that are all wrong may
    agree or not: the shares are then the least that they can be."""
    agreed: Share  # Share of the agreed answers that is right
    apart: tuple[Share, ...]  # The share of each arm's answers that is right where they differ
    curve: ConfidenceCurve | None = None
    """Mean margin (or confidence) of agreed answers -> probability that they are right."""

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        if not len(self.arms) == len(self.models) == len(self.apart):
            raise ValueError(f"{len(self.arms)} arms, {len(self.apart)} shares where they differ")
        return self


class NeedHead(_Part):
    """Predicts whether a question needs more than a base arm offers."""

    need: Literal["reasoning", "larger_model"]
    """``reasoning`` compares two reasoning methods of one model, ``larger_model`` two models."""
    base: str
    other: str
    together: Number = Field(0.0, ge=-1, le=1)
    """Correlation of both arms being right, beyond what is predicted of the question."""
    n: int = Field(ge=1)  # Number of questions that both answered
    auc: Probability | None
    """Cross-validated area under the ROC curve of the probability that only the other arm is right;
    None if it cannot be measured."""


class Bands(_Part):
    """The bands (subjects) to which questions are assigned by their words."""

    source: Literal["words", "fields"] = "words"
    """``words`` compares a question with centroids; ``fields`` asks the classifier that ships with
    etui."""
    fields_sha256: str = ""  # Identifies that classifier; empty for `words`
    centroids: dict[str, Sparse]
    sharpness: Number = Field(gt=0)  # Factor of the cosine similarity in the softmax over the bands


class Provenance(_Part):
    """The origin of the graded answers: runs, a table or the log, and the suites of runs."""

    fitted_at: str
    source: tuple[str, ...]
    suites: tuple[str, ...] = ()
    data_sha256: str
    n: int = Field(ge=1)
    excluded: int = Field(0, ge=0)
    etui: str


class FittedModel(_Part):
    """The content of a fitted file."""

    version: Literal[1, 2, 3]
    features: tuple[str, ...]
    idf: tuple[Number, ...]
    bands: Bands
    arms: dict[str, ArmHead] = Field(min_length=1)
    joint: JointPart | None = None
    needs: tuple[NeedHead, ...] = ()
    agreements: tuple[AgreementHead, ...] = ()
    provenance: Provenance

    @model_validator(mode="after")
    def _check_compatible(self) -> Self:
        if self.features != FEATURE_NAMES:
            raise ValueError("its features differ from those of this etui")
        if len(self.idf) != BUCKETS:
            raise ValueError(f"{len(self.idf)} word buckets, expected {BUCKETS}")
        if self.bands.source == "fields" and self.bands.fields_sha256 != load_classifier().sha256:
            raise ValueError("its fields are those of another etui")
        if self.joint is not None and set(self.joint.arms) != set(self.arms):
            raise ValueError("its joint model has other arms")
        if not {arm for need in self.needs for arm in (need.base, need.other)} <= set(self.arms):
            raise ValueError("its pairs have other arms")
        return self


def parse_fitted(text: str, file: str) -> FittedModel:
    """Parse the text of a fitted file; InvalidFile if it is damaged, or of another etui version."""
    try:
        return FittedModel.model_validate_json(text)
    except ValidationError as error:
        raise _explain(error, text, file) from None


def _explain(error: ValidationError, text: str, file: str) -> InvalidFile:
    if not text.strip():
        return _invalid(file, "is empty")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as fault:
        return _invalid(file, f"is not valid JSON, or truncated: {str(fault)[:80]}")
    if not isinstance(document, dict) or "arms" not in document or "provenance" not in document:
        return _invalid(file, "is not a fitted model")
    version = document.get("version")
    if version not in READABLE_VERSIONS:
        newer = isinstance(version, int) and version > FITTED_VERSION
        found = json.dumps(version)[:20] + (" of a newer etui" if newer else "")
        message = f"has version {found}, this etui reads {FITTED_VERSION}"
        return _invalid(file, message, "update etui, or " if newer else "")
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part)[:40] for part in first["loc"][:6])
    return _invalid(file, f"{place}: {first['msg']}" if place else first["msg"])


def load_fitted(path: Path) -> FittedModel:
    """Load a fitted file; InvalidFile if it cannot be read, is damaged, or of another version."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise _invalid(str(path), "is larger than any fitted model")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise _invalid(str(path), f"cannot be read: {reason}") from None
    return parse_fitted(text, str(path))


def format_fitted(model: FittedModel) -> str:
    """Format a model as the text of its file: one line of JSON."""
    return json.dumps(model.model_dump(mode="json"), separators=(",", ":")) + "\n"


def _invalid(file: str, message: str, first: str = "") -> InvalidFile:
    fix = f"{first}run `etui policy fit` again, or delete the file"
    return InvalidFile.of([Problem(file, 0, 0, message)], fix)
