"""Puts a finished folder on the Hugging Face hub, and only where the user asked for it by name."""

from pathlib import Path
from typing import Any

from whet.errors import InputError, MissingExtraError


def push(folder: Path, repo: str, *, is_public: bool = False, api: Any = None) -> str:
    """Upload a folder as a model repository (private unless told otherwise); gives its address.

    api: huggingface_hub's HfApi; made from the user's own log-in where it is not given. InputError where the hub refuses.
    """
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled
    except ImportError:
        raise MissingExtraError("huggingface_hub", "hub", "--push") from None
    api = api or HfApi()
    try:
        found = api.create_repo(repo, repo_type="model", private=not is_public, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=str(folder), commit_message="Upload by whet")
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled, OSError, RuntimeError) as error:
        raise InputError(
            f"--push {repo}",
            f"the hub did not take it ({(str(error).strip().splitlines() or [type(error).__name__])[0][:160]})",
            f"The folder is whole: {folder}. Log in (hf auth login), look at the name, and push it again",
        ) from None
    return str(found)
