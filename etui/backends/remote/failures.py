"""From a failed request to the error that a front end shows.

``ModelUnavailable`` says that nothing was spent, so that a fallback answers; ``RemoteFailed`` that
the server may have computed something; ``InvalidRequest`` that the request cannot be answered.
"""

from __future__ import annotations

from etui.backends.remote.retries import Failure
from etui.config.backend_spec import BackendSpec
from etui.errors import EtuiError, InvalidRequest, ModelUnavailable, RemoteFailed


class RequestFailed(Exception):
    """A request to a remote backend failed, and will not be sent again."""

    def __init__(self, failure: Failure, tries: int = 1) -> None:
        super().__init__(failure.what)
        self.failure = failure
        self.tries = tries


def build_error(spec: BackendSpec, failure: Failure, model: str, tries: int = 1) -> EtuiError:
    """Build the error of a failed request.

    Args:
        tries: How often it was sent.
    """
    name = f"the backend {spec.name}"
    again = f" ({tries} tries)" if tries > 1 else ""
    match failure.status if failure.kind == "status" else None:
        case 401 | 403:
            fix = (
                f"check the key in the environment variable {spec.key_env}"
                if spec.key_env
                else f"add `key_env: VARIABLE` to {spec.name} in config.yaml"
            )
            return ModelUnavailable(f"{name} refused the key: {failure.what}", fix)
        case 404:
            fix = "compare `remote_name` with: etui models list; and `url`, which ends with /v1"
            return ModelUnavailable(f"{name} does not serve {model}: {failure.what}", fix)
        case 400 | 405 | 413 | 415 | 422:
            return InvalidRequest(f"{name} refused the request: {failure.what}")
    if failure.untouched:
        return ModelUnavailable(f"{name} cannot answer{again}: {failure.what}", _how_to_fix(spec))
    return RemoteFailed(
        f"{name} failed: {failure.what}",
        "ask again; it is not sent again by itself, because the server may have begun it",
    )


def _how_to_fix(spec: BackendSpec) -> str:
    return f"start the server at {spec.url}, or fix `url` of {spec.name} in config.yaml"
