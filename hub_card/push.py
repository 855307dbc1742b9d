"""Pushes a built folder to the Hub, proves that it loads from there, and tags it.

    python -m hub_card.push --what model --repo-id me/mmfusion-demo --dry-run
    python -m hub_card.push --what model --repo-id me/mmfusion-demo --private
    python -m hub_card.push --what model --repo-id me/mmfusion-demo --tag v0.1.0 --collection mmfusion

The login is that of `hf auth login`. Nothing is sent before the folder is found clean: no pickles, secrets, paths of
this machine or weights of unclear licence. After the upload every file on the Hub is compared with the folder, and the
repository is loaded by a process with an empty cache that does not have mmfusion; only then it is tagged. An unchanged
folder makes no commit, so after a failure give the same command again.
"""

from hub_card.options import PushArguments
from training.common.cli import run

if __name__ == "__main__":
    run("hub_card.push", PushArguments, __doc__)

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, HfApi, ModelCard, SpaceCard, get_token
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.repocard import RepoCard

from hub_card.contents import Contents, default_folder, read_contents
from hub_card.figures import CardError
from hub_card.licenses import NON_COMMERCIAL, OPEN, UNCLEAR_TAG
from hub_card.loaders import load_as_stranger
from modeling_mmfusion.errors import DataError, one_line

REPO_TYPES = {"model": "model", "adapter": "model", "dataset": "dataset", "metric": "space", "space": "space"}
CARDS: dict[str, type[RepoCard]] = {"model": ModelCard, "dataset": DatasetCard, "space": SpaceCard}
SPACE_VARIABLES = {"MMFUSION_MODEL": "models", "MMFUSION_DATA": "datasets"}
ATTEMPTS = 5
LONGEST_WAIT = 300
PASSING = (409, 429, 500, 502, 503, 504)
ADVICE = {
    401: "the Hub does not know the login; run: hf auth login",
    403: "the login may not do this; it needs a token with the right to write there",
    404: "not found; is the id right, and may the login see it?",
    409: "it was changed by someone else at the same time",
    412: "it was changed by someone else at the same time",
    413: "a file is too large",
    429: "too many requests",
}
KEPT = (".gitattributes",)


class PushError(DataError):
    """What kept a release from being made, on one line, and what state it left."""


def main(arguments: PushArguments) -> str | None:
    """Checks, pushes, verifies and tags; returns the commit, or `None` of a dry run."""
    if arguments.pull_request and arguments.tag:
        raise PushError("--tag: a pull request is no release; tag it when it is merged")
    contents = read_contents(
        Path(arguments.folder or default_folder(arguments.what, arguments.repo_id)), arguments.max_mb
    )
    card = read_card(arguments, contents)
    print(contents.listing(), flush=True)
    if arguments.dry_run:
        print(f"dry run: nothing was sent to {arguments.repo_id}", flush=True)
        return None
    return Push(arguments, contents, card).run()


def read_card(arguments: PushArguments, contents: Contents) -> RepoCard:
    """The folder's card, if its licence lets it be published.

    Raises:
        CardError: if it does not, the folder is of another kind, or its card is of another repository.
    """
    card = CARDS[REPO_TYPES[arguments.what]].load(contents.folder / "README.md")
    license, where = card.data.get("license"), f"{contents.folder}/README.md"
    is_adapter = "adapter_config.json" in contents.files
    if arguments.what in ("model", "adapter") and is_adapter != (arguments.what == "adapter"):
        raise CardError(f"{contents.folder}: is no {arguments.what}; give another --what or --folder")
    allowed = OPEN + (NON_COMMERCIAL if arguments.what == "dataset" else [])
    if license not in allowed or UNCLEAR_TAG in (card.data.get("tags") or []):
        if arguments.what == "dataset" or not arguments.allow_unclear_license:
            name = card.data.get("license_name") or license or "missing"
            raise CardError(
                f"{where}: the licence is {name}, so this is not published; the card tells what it comes from"
            )
        print(f"warning: publishing with licence {license}, as --allow-unclear-license says", flush=True)
    if arguments.repo_id not in card.text and arguments.what != "space":
        raise CardError(f"{where}: its examples don't name {arguments.repo_id}; build it for that --repo-id")
    return card


class Push:
    """One push: the steps in their order, and what to say if one fails.

    Args:
        arguments (`PushArguments`): see there.
        contents (`Contents`): the folder's files.
        card (`RepoCard`): its card.
    """

    def __init__(self, arguments: PushArguments, contents: Contents, card: RepoCard):
        self.arguments, self.contents, self.card = arguments, contents, card
        self.repo = {"repo_id": arguments.repo_id, "repo_type": REPO_TYPES[arguments.what]}
        self.api = HfApi()
        self.state = "nothing was changed"

    def run(self) -> str:
        """Makes the repository, uploads, compares, loads, tags and collects; returns the commit."""
        if get_token() is None:
            raise PushError(f"{self.arguments.repo_id}: {ADVICE[401]}")
        head = self.head()
        there = self.files(head) if head else {}
        self.check_strangers(there)
        self.check_tag(None if self.differences(there) else head)
        commit = self.upload(head)
        self.compare(commit)
        self.load(commit)
        if self.arguments.tag:
            self.call(
                "set the tag", self.api.create_tag, tag=self.arguments.tag, revision=commit, exist_ok=True, **self.repo
            )
            self.check_tag(commit)
        self.state = "it is released, but in no collection yet; give the same command again"
        if self.arguments.collection:
            self.collect()
        tag = f", tag {self.arguments.tag}" if self.arguments.tag else ""
        print(f"released: {self.arguments.repo_id} at {commit[:12]}{tag}", flush=True)
        return commit

    def call(
        self, step: str, function: Callable[..., Any], *, again: bool = True, absent_is_fine: bool = False, **options
    ) -> Any:
        """Calls the Hub, again after a while if it is busy or the connection breaks.

        Args:
            step (`str`): what is done, for messages.
            function (`Callable`): a method of `HfApi`.
            again (`bool`, *optional*, defaults to `True`): whether it may be tried again.
            absent_is_fine (`bool`, *optional*, defaults to `False`): return `None` if there is no such repository.
            options: the method's arguments.

        Raises:
            PushError: saying what failed, why, and what state the release is in.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return function(**options)
            except Exception as error:  # HfHubHTTPError, those of the connection, and what wraps them
                if absent_is_fine and isinstance(error, RepositoryNotFoundError):
                    return None
                reason, wait = reason_of(error), wait_of(error, attempt)
                if reason is None:
                    raise
                if wait is None or not again or attempt == ATTEMPTS:
                    raise PushError(f"{self.arguments.repo_id}: can't {step}: {reason}; {self.state}") from error
                print(f"{step}: {reason}; trying again in {wait:g} s ({attempt} of {ATTEMPTS - 1})", flush=True)
                time.sleep(wait)

    def head(self) -> str | None:
        """The repository's commit; `None` if it was not there, then it is made."""
        if found := self.call("look at it", self.api.repo_info, absent_is_fine=True, **self.repo):
            return found.sha
        options = {"space_sdk": self.card.data.get("sdk")} if self.repo["repo_type"] == "space" else {}
        options |= {"private": self.arguments.private, "exist_ok": True}
        self.call("make the repository", self.api.create_repo, **self.repo, **options)
        self.state = "the repository is there, but empty"
        return None

    def check_tag(self, commit: str | None) -> None:
        """Refuses a tag that is another commit's; `commit` is `None` before a new one.

        Raises:
            PushError: naming the commit that has it.
        """
        if not self.arguments.tag:
            return
        tags = {
            tag.name: tag.target_commit
            for tag in self.call("read the tags", self.api.list_repo_refs, **self.repo).tags
        }
        found = tags.get(self.arguments.tag)
        if found not in (None, commit):
            raise PushError(
                f"{self.arguments.repo_id}: the tag {self.arguments.tag} names the commit {found[:12]}, not this "
                f"folder; give another tag; {self.state}"
            )

    def files(self, revision: str) -> dict[str, RepoFile]:
        """The files of a commit by path."""

        def tree():
            return {
                file.path: file
                for file in self.api.list_repo_tree(recursive=True, revision=revision, **self.repo)
                if isinstance(file, RepoFile) and file.path not in KEPT
            }

        return self.call("list its files", tree)

    def check_strangers(self, there: dict[str, RepoFile]) -> None:
        """Refuses a repository with files that the folder has not, unless they may be removed.

        Raises:
            PushError: naming them.
        """
        strangers = sorted(set(there) - set(self.contents.files))
        if strangers and not self.arguments.delete:
            named = ", ".join(strangers[:5]) + (", ..." if len(strangers) > 5 else "")
            raise PushError(
                f"{self.arguments.repo_id}: has {len(strangers)} files that {self.contents.folder} has not ({named}); "
                "give --delete to remove them, or another --repo-id"
            )

    def differences(self, there: dict[str, RepoFile]) -> list[str]:
        """Files that are not the same on the Hub and in the folder, or only in one of them."""
        wrong = [name for name in self.contents.files if name not in there or not self.is_same(there[name])]
        return wrong + sorted(set(there) - set(self.contents.files))

    def upload(self, head: str | None) -> str:
        """Sends what differs; returns the commit, the one before if nothing does."""
        self.state = "a part may have arrived, no tag names it: give the same command again"
        for name, field in SPACE_VARIABLES.items() if self.arguments.what == "space" else ():
            value = self.card.data.get(field)[0]
            self.call(
                "set its variables", self.api.add_space_variable, repo_id=self.arguments.repo_id, key=name, value=value
            )
        found = self.call(
            "upload",
            self.api.upload_folder,
            again=not self.arguments.pull_request,  # a second try might open a second one
            folder_path=self.contents.folder,
            commit_message=self.arguments.message,
            delete_patterns="*" if self.arguments.delete else None,
            allow_patterns=self.contents.files,
            create_pr=self.arguments.pull_request,
            **self.repo,
        )
        print("unchanged: no commit was made" if found.oid == head else f"commit: {found.commit_url}", flush=True)
        if found.pr_url:
            print(f"pull request: {found.pr_url}", flush=True)
        self.state = "it was uploaded, but is no release: no tag names it; give the same command again"
        return found.oid

    def compare(self, commit: str) -> None:
        """Compares every file of a commit with the folder's, by size and hash.

        Raises:
            PushError: naming those that differ or are missing.
        """
        found = self.files(commit)
        if wrong := self.differences(found):
            raise PushError(
                f"{self.arguments.repo_id}: {', '.join(wrong[:5])} on the Hub is not the folder's; {self.state}"
            )
        print(f"compared: {len(found)} files are the folder's", flush=True)

    def is_same(self, file: RepoFile) -> bool:
        """True if a file on the Hub is the folder's."""
        path = self.contents.folder / file.path
        if file.lfs:
            with path.open("rb") as stream:
                return file.lfs.sha256 == hashlib.file_digest(stream, "sha256").hexdigest()
        content = path.read_bytes()
        return file.blob_id == hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()

    def load(self, commit: str) -> None:
        """Loads the commit as a stranger would.

        Raises:
            PushError: with what a stranger would see.
        """
        try:
            found = load_as_stranger(self.arguments.what, self.arguments.repo_id, commit)
        except RuntimeError as error:
            raise PushError(f"{self.arguments.repo_id}: does not load from the Hub: {error}; {self.state}") from error
        print(f"loaded without mmfusion: {json.dumps(found)}", flush=True)

    def collect(self) -> None:
        """Adds the repository to the collection."""
        owner = self.arguments.repo_id.split("/")[0]
        options = {"title": self.arguments.collection, "namespace": owner, "private": self.arguments.private}
        found = self.call("make the collection", self.api.create_collection, exists_ok=True, **options)
        options = {"item_id": self.arguments.repo_id, "item_type": self.repo["repo_type"], "exists_ok": True}
        self.call("add it to the collection", self.api.add_collection_item, collection_slug=found.slug, **options)
        print(f"collection: {found.url}", flush=True)


def causes_of(error: BaseException | None) -> list[BaseException]:
    """An error and what it came from; uploads wrap theirs."""
    found = []
    while error is not None:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def http_error(error: BaseException) -> HfHubHTTPError | None:
    """The Hub's answer that an error came from."""
    return next((cause for cause in causes_of(error) if isinstance(cause, HfHubHTTPError)), None)


def is_connection_error(error: BaseException) -> bool:
    """True if the connection failed: an error of the client's HTTP library, or an answer that was cut short."""
    return any(
        type(cause).__module__.startswith(("httpx", "httpcore"))
        or isinstance(cause, (ConnectionError, json.JSONDecodeError))
        for cause in causes_of(error)
    )


def reason_of(error: BaseException) -> str | None:
    """Why a call failed, on one line; `None` of errors that are not the Hub's nor the connection's."""
    if answer := http_error(error):
        status = answer.response.status_code
        said = " ".join((answer.server_message or "").split())[:200]
        advice = ADVICE.get(status, "the Hub failed" if status >= 500 else "the Hub refuses")
        return f"{advice} ({status}{': ' + said if said else ''})"
    if is_connection_error(error):
        return f"the connection broke ({type(causes_of(error)[-1]).__name__})"
    if isinstance(error, RuntimeError) or (isinstance(error, ValueError) and "README.md" in str(error)):
        return one_line(error)
    return None


def wait_of(error: BaseException, attempt: int) -> float | None:
    """Seconds until a call may be tried again: as the Hub asks, else doubling; `None` if that would not help."""
    answer = http_error(error)
    if answer is None:
        return min(2.0 ** (attempt - 1), 30.0) if is_connection_error(error) else None
    if answer.response.status_code not in PASSING:
        return None
    asked = answer.response.headers.get("Retry-After", "")
    wait = float(asked) if asked.isdigit() else min(2.0 ** (attempt - 1), 30.0)
    return wait if wait <= LONGEST_WAIT else None
