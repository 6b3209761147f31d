"""Keep compiled policies and their fits, as long as their files have not changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etui.runtime.file_cache import FileCache

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.models.catalogue import Catalogue
    from etui.routing.policy import Policy
    from etui.runtime.log_predictor import Heads


class PolicyCache:
    """Policies by name; safe to use from several threads.

    Checking and compiling a policy takes some milliseconds, comparing the states of its files some
    microseconds.

    Args:
        config: Holds the folder of the user's own policies.
    """

    def __init__(self, config: Config) -> None:
        from etui.config.config import shipped_dir

        self._config = config
        self._folders = (str(shipped_dir() / "policies"), str(config.policies_dir))
        self._policies: FileCache[Policy] = FileCache()
        self._names: FileCache[tuple[str, ...]] = FileCache()
        self._heads: FileCache[Heads | None] = FileCache()

    def names(self) -> tuple[str, ...]:
        """Return the names of all policies, sorted."""
        from etui.routing.library import policy_names

        return self._names.get(
            "names", lambda: policy_names(self._config), lambda _names: self._folders
        )

    def load(self, name: str, catalogue: Catalogue) -> Policy:
        """Load a policy by name or path, or return it from memory.

        Args:
            name: Name or path. A path is always read.
            catalogue: The models. Another catalogue compiles the policy again.

        Raises:
            UsageError: There is no policy of that name.
            InvalidFile: The file has errors.
        """
        from etui.routing.library import load_policy

        def read() -> Policy:
            return load_policy(name, self._config, catalogue.models)

        if name not in self.names():
            return read()
        return self._policies.get(
            name, read, lambda policy: (str(policy.path), *self._folders), since=catalogue
        )

    def load_heads(self, policy: Policy) -> Heads | None:
        """Load the fit of a policy, or return it from memory; None without one.

        Raises:
            InvalidFile: The file is damaged, or of another etui version.
        """
        from etui.routing.accuracy.predictor import get_fitted_path, load_heads

        path = str(get_fitted_path(policy, self._config))
        return self._heads.get(path, lambda: load_heads(policy, self._config), lambda _: (path,))
