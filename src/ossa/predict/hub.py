"""Detectors on the Hugging Face hub: one folder with the weights and a card made from them."""

import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

from ossa.errors import CheckpointError, ConfigError, RunFailed, legible
from ossa.escaping import escape_markdown
from ossa.models.checkpoint import Checkpoint, read_checkpoint

HUB_PREFIX: Final = "hf://"
_WEIGHTS, _CARD = "best.safetensors", "README.md"
_METRICS: Final = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
_NAMES_SHOWN = 100


def push_to_hub(weights: Path | str, repository: str, *, private: bool = True) -> str:
    """Returns the address of a repository with a checkpoint and a card made from its record.

    The card has classes, image size, metrics on val, recipe and the licence of the weights that the
    training began with. The name of the data set is in it, and no path of this machine; the
    configuration inside the weights has the path of the data.

    Args:
        weights: a checkpoint of ossa.
        repository: `user/name`; made if there is none. The token is that of `hf auth login`.
        private: whether a new repository is private.

    Raises:
        CheckpointError: the file is no checkpoint of ossa.
        ConfigError: it began with weights of a licence that is not stated.
        RunFailed: the hub refuses it, or cannot be reached.

    Examples:
        >>> import ossa
        >>> ossa.push_to_hub("best.safetensors", "me/cells")  # doctest: +SKIP
        'https://huggingface.co/me/cells'
    """
    from huggingface_hub import HfApi

    checkpoint = read_checkpoint(weights)
    if Path(weights).suffix != ".safetensors":
        raise CheckpointError(expected="a checkpoint of ossa", found="another", path=weights)
    if checkpoint.origin["pretraining"] and not checkpoint.origin["licence"]:
        raise ConfigError(
            expected="a licence of the weights that the training began with",
            found="none",
            path=weights,
            advice="they may not be yours to publish",
        )
    with tempfile.TemporaryDirectory(prefix="ossa-hub-") as folder:
        shutil.copy(weights, Path(folder, _WEIGHTS))
        Path(folder, _CARD).write_text(model_card(checkpoint, repository))
        try:
            api = HfApi()
            address = api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(repo_id=repository, folder_path=folder)
        except Exception as error:  # of whatever kind the library and its client raise
            raise RunFailed(
                expected=f"to publish {legible(repository)}", found=_first_line(error)
            ) from error
    return str(address)


def fetch_from_hub(address: str) -> Path:
    """Returns the weights of `hf://user/name` or `hf://user/name@revision`, fetched once.

    Raises:
        ConfigError: it is no such address.
        RunFailed: there is none, or the hub cannot be reached.
    """
    from huggingface_hub import hf_hub_download

    repository, _, revision = address.removeprefix(HUB_PREFIX).partition("@")
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise ConfigError(expected="hf://user/name", found=legible(address))
    try:
        return Path(hf_hub_download(repository, _WEIGHTS, revision=revision or None))
    except Exception as error:  # of whatever kind the library and its client raise
        raise RunFailed(
            expected=f"{_WEIGHTS} at {legible(address)}", found=_first_line(error)
        ) from error


def model_card(checkpoint: Checkpoint, repository: str) -> str:
    """Returns the README.md of a repository, with the metadata that the hub reads."""
    import yaml

    details: dict[str, Any] = checkpoint.details
    run = details.get("run") or {}
    metrics = {
        key: round(value, 4)
        for key, value in (details.get("metrics") or {}).items()
        if key in _METRICS and isinstance(value, int | float)
    }
    head: dict[str, Any] = {
        "library_name": "ossa",
        "pipeline_tag": "object-detection",
        "tags": ["object-detection", "ossa", checkpoint.model.name],
    }
    if licence := checkpoint.origin["licence"]:
        head["license"] = licence.lower()
    names = [_shown(name) for name in checkpoint.names[:_NAMES_SHOWN]]
    if more := len(checkpoint.names) - len(names):
        names.append(f"and {more} more")
    path = Path(str(run.get("data", "")))
    data = path.parent.name if path.suffix == ".yaml" else path.name
    origin = checkpoint.origin["pretraining"] or "nothing (from scratch)"
    table = "".join(f"| {key} | {value} |\n" for key, value in metrics.items())
    return f"""---
{yaml.safe_dump(head, sort_keys=False)}---

# {_shown(repository)}

{checkpoint.model.name}, neck {checkpoint.model.neck}, {checkpoint.model.head} head; \
{checkpoint.imgsz} px; {len(checkpoint.names)} classes: {", ".join(names)}.

```python
import ossa

predictor = ossa.load("{HUB_PREFIX}{repository}")
found = predictor("photo.jpg")
```

Trained on {_shown(data) or "a data set that is not named"} with the recipe \
{_shown(run.get("recipe", "unknown"))}, seed {_shown(run.get("seed", "unknown"))}; began with \
weights of {_shown(origin)}.

| on its val split | |
|---|---|
{table}"""


def _shown(value: Any) -> str:
    return escape_markdown(legible(str(value)))


def _first_line(error: Exception) -> str:
    return legible((str(error).strip().splitlines() or [type(error).__name__])[0], 300)
